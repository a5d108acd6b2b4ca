/* Empty but in the build for crash tests. */
#include "kill_points.h"

#ifdef SHMT_KILL_POINTS

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <unistd.h>

static _Atomic int record_fd = -1;
static _Atomic uint64_t passages_left;

void shmt_kill_points_arm(int record, uint64_t fatal) {
    atomic_store(&record_fd, -1);
    atomic_store(&passages_left, fatal);
    atomic_store(&record_fd, record);
}

void shmt_kill_point(const char *name) {
    int saved = errno, fd = atomic_load(&record_fd);
    if (fd < 0) return;
    int dies = atomic_fetch_sub(&passages_left, 1) == 1;
    int written = dprintf(fd, "%s%s\n", dies ? "!" : "", name);
    if (dies || written < 0) kill(getpid(), SIGKILL); /* does not come back */
    errno = saved;
}

#endif
