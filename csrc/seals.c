#define _GNU_SOURCE
#include "seals.h"

#include <fcntl.h>

#include "kill_points.h"

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif

static int seals(bool read_only) {
    return F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL | (read_only ? F_SEAL_FUTURE_WRITE : 0);
}

shmt_status shmt_seal(int fd, bool read_only) {
    if (fcntl(fd, F_ADD_SEALS, seals(read_only)) != 0) return SHMT_SYSTEM;
    SHMT_KILL_POINT("seal.added");
    return SHMT_OK;
}

bool shmt_is_sealed(int fd, bool read_only) {
    int found = fcntl(fd, F_GET_SEALS);
    return found >= 0 && (found & seals(read_only)) == seals(read_only);
}
