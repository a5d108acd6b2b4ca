#define _GNU_SOURCE
#include "names.h"

#include <dirent.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "kill_points.h"
#include "layout.h"

static void unlink_name(const char *name) {
    char path[NAME_MAX + 2];
    snprintf(path, sizeof path, "/%s", name);
    shm_unlink(path);
}

static void unlink_all(void *context) {
    const char *prefix = context;
    size_t length = strlen(prefix);
    char control[SHMT_PREFIX_NBYTES + 2];
    snprintf(control, sizeof control, "%s0", prefix);
    DIR *names = opendir("/dev/shm");
    if (!names) return;
    for (struct dirent *item; (item = readdir(names));)
        if (strncmp(item->d_name, prefix, length) == 0 && strcmp(item->d_name, control) != 0) {
            unlink_name(item->d_name);
            SHMT_KILL_POINT("unlink.data");
        }
    closedir(names);
    unlink_name(control);
    SHMT_KILL_POINT("unlink.control");
}

shmt_status shmt_names_unlink(const shmt_file *control, const char *prefix) {
    return shmt_lock_during(control, 0, SHMT_INDICES, unlink_all, (void *)prefix);
}
