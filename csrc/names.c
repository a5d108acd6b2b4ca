#define _GNU_SOURCE
#include "names.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "kill_points.h"
#include "layout.h"

static void unlink_name(const char *name) {
    char path[NAME_MAX + 2];
    snprintf(path, sizeof path, "/%s", name);
    shm_unlink(path);
}

static void unlink_listed(DIR *names, const char *prefix, const char *control) {
    for (struct dirent *item; (item = readdir(names));)
        if (strncmp(item->d_name, prefix, strlen(prefix)) == 0 && strcmp(item->d_name, control) != 0) {
            unlink_name(item->d_name);
            SHMT_KILL_POINT("unlink.data");
        }
}

/* For want of a descriptor or memory to list them: every name that there may be. */
static void unlink_unlisted(const char *prefix) {
    char name[SHMT_PREFIX_NBYTES + 8];
    for (unsigned number = 1; number <= SHMT_SEGMENTS; number++) {
        snprintf(name, sizeof name, "%s%u", prefix, number);
        unlink_name(name);
        SHMT_KILL_POINT("unlink.data");
    }
}

static void unlink_all(void *context) {
    const char *prefix = context;
    char control[SHMT_PREFIX_NBYTES + 2];
    snprintf(control, sizeof control, "%s0", prefix);
    DIR *names = opendir("/dev/shm");
    if (names) {
        unlink_listed(names, prefix, control);
        closedir(names);
    } else {
        unlink_unlisted(prefix);
    }
    unlink_name(control);
    SHMT_KILL_POINT("unlink.control");
}

shmt_status shmt_names_unlink(const shmt_file *control, const char *prefix) {
    return shmt_lock_during(control, 0, SHMT_INDICES, unlink_all, (void *)prefix);
}

shmt_status shmt_names_unlink_leaving(shmt_file *control, const char *prefix) {
    shmt_status status = shmt_names_unlink(control, prefix);
    if (status != SHMT_SYSTEM) return status;
    shmt_file_close(control);
    return shmt_names_unlink(control, prefix);
}

/* Prefixes; the oldest is overwritten. Without a lock: of a torn one no name exists. */
static char left[64][SHMT_PREFIX_NBYTES];
static _Atomic uint32_t left_next;

void shmt_names_remember(const char *prefix) {
    snprintf(left[atomic_fetch_add(&left_next, 1) % 64], SHMT_PREFIX_NBYTES, "%s", prefix);
}

void shmt_names_try_again(void) {
    for (size_t i = 0; i < sizeof left / sizeof *left; i++) {
        if (!*left[i]) continue;
        char name[SHMT_FILE_NAME_NBYTES];
        snprintf(name, sizeof name, "/%.*s0", SHMT_PREFIX_NBYTES - 1, left[i]);
        int fd = shm_open(name, O_RDWR, 0);
        if (fd < 0) continue; /* removed by whoever was last, mostly */
        shmt_file control = {0};
        if (shmt_file_init(&control, fd, left[i]) == SHMT_OK)
            shmt_lock_during(&control, 0, SHMT_INDICES, unlink_all, left[i]);
        shmt_file_close(&control);
        close(fd);
    }
}
