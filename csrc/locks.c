#define _GNU_SOURCE
#include "locks.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kill_points.h"
#include "layout.h"

static pthread_mutex_t fork_guard = PTHREAD_MUTEX_INITIALIZER;
static _Atomic uint32_t fork_epoch;

static void before_fork(void) { pthread_mutex_lock(&fork_guard); }
static void after_fork_in_parent(void) { pthread_mutex_unlock(&fork_guard); }
static void after_fork_in_child(void) {
    atomic_fetch_add(&fork_epoch, 1);
    pthread_mutex_init(&fork_guard, NULL);
}

__attribute__((constructor(SHMT_FORK_GUARD))) static void watch_forks(void) {
    pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
}

uint32_t shmt_fork_epoch(void) { return atomic_load_explicit(&fork_epoch, memory_order_relaxed); }

shmt_status shmt_file_init(shmt_file *file, int fd, const char *prefix) {
    struct stat facts;
    if (*prefix) snprintf(file->name, sizeof file->name, "/%s0", prefix);
    file->fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    if (file->fd < 0) return SHMT_SYSTEM;
    if (fstat(file->fd, &facts) != 0) {
        close(file->fd);
        file->fd = -1;
        return SHMT_SYSTEM;
    }
    file->device = facts.st_dev;
    file->inode = facts.st_ino;
    return SHMT_OK;
}

static bool is_ours(const shmt_file *file, int fd) {
    struct stat facts;
    return fd >= 0 && fstat(fd, &facts) == 0 && facts.st_dev == file->device && facts.st_ino == file->inode;
}

void shmt_file_close(shmt_file *file) {
    if (is_ours(file, file->fd)) close(file->fd);
    file->fd = -1;
}

/* A new description of the same file: through our descriptor, which works for unlinked and anonymous files
 * too, or by name where a stray close took the descriptor away, or where there is no /proc. */
static int reopen(const shmt_file *file) {
    if (is_ours(file, file->fd)) {
        char path[32];
        snprintf(path, sizeof path, "/proc/self/fd/%d", file->fd);
        int fd = open(path, O_RDWR | O_CLOEXEC);
        if (fd >= 0 || !*file->name) return fd;
    } else if (!*file->name) {
        errno = EBADF;
        return -1;
    }
    int fd = shm_open(file->name, O_RDWR, 0);
    if (fd >= 0 && !is_ours(file, fd)) {
        close(fd);
        fd = -1;
        errno = EBADF;
    }
    return fd;
}

static int set_lock(int fd, short type, uint32_t first, uint32_t count) {
    struct flock range = {.l_type = type, .l_whence = SEEK_SET, .l_start = first, .l_len = count};
    return fcntl(fd, F_OFD_SETLK, &range);
}

static shmt_status lock_status(void) { return errno == EAGAIN || errno == EACCES ? SHMT_BUSY : SHMT_SYSTEM; }

shmt_status shmt_lock_hold(const shmt_file *file, uint32_t index, shmt_lock *lock) {
    shmt_status status = SHMT_SYSTEM;
    lock->page = NULL;
    pthread_mutex_lock(&fork_guard);
    int fd = reopen(file);
    if (fd >= 0) {
        if (set_lock(fd, F_WRLCK, index, 1) != 0) {
            status = lock_status();
        } else {
            SHMT_KILL_POINT("lock.taken");
            void *page = mmap(NULL, SHMT_PAGE_NBYTES, PROT_NONE, MAP_SHARED, fd, 0);
            if (page != MAP_FAILED && madvise(page, SHMT_PAGE_NBYTES, MADV_DONTFORK) == 0) {
                lock->page = page;
                status = SHMT_OK;
            } else if (page != MAP_FAILED) {
                munmap(page, SHMT_PAGE_NBYTES);
            }
        }
        close(fd);
        SHMT_KILL_POINT("lock.held");
    }
    pthread_mutex_unlock(&fork_guard);
    return status;
}

void shmt_lock_release(shmt_lock *lock) {
    if (lock->page) munmap(lock->page, SHMT_PAGE_NBYTES);
    lock->page = NULL;
}

bool shmt_lock_is_held(const shmt_file *file, uint32_t index) {
    struct flock range = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = index, .l_len = 1};
    bool ours = is_ours(file, file->fd);
    int fd = ours ? file->fd : reopen(file);
    bool is_free = fd >= 0 && fcntl(fd, F_OFD_GETLK, &range) == 0 && range.l_type == F_UNLCK;
    if (!ours && fd >= 0) close(fd);
    return !is_free;
}

shmt_status shmt_lock_during(const shmt_file *file, uint32_t first, uint32_t count, void (*work)(void *), void *context) {
    shmt_status status = SHMT_SYSTEM;
    pthread_mutex_lock(&fork_guard);
    int fd = reopen(file);
    if (fd >= 0) {
        if (set_lock(fd, F_WRLCK, first, count) != 0) {
            status = lock_status();
        } else {
            work(context);
            set_lock(fd, F_UNLCK, first, count);
            status = SHMT_OK;
        }
        close(fd);
    }
    pthread_mutex_unlock(&fork_guard);
    return status;
}
