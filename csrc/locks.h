/* locks.h - who is alive: OFD locks, one byte of the control segment per index.
 *
 * The kernel drops an OFD lock when the last reference to its open file description goes. A process holds
 * its byte by a *mapping* of a description of its own (rule 3): no descriptor is left that a stray close()
 * could hit, MADV_DONTFORK keeps the mapping out of children, so SIGKILL frees the byte within milliseconds
 * even while a forked child lives on. Source: fcntl(2), "Open file description locks"; tried on Linux 6.18.
 *
 * Every function here that opens a description and locks it holds the fork guard meanwhile: a fork() in
 * another thread would otherwise copy the descriptor, and with it the lock, into the child.
 */
#ifndef SHMT_LOCKS_H
#define SHMT_LOCKS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "status.h"

#define SHMT_FILE_NAME_NBYTES 80

/* A file of shared memory to open anew at will: a descriptor whose own description never holds a lock.
 * If somebody closed or replaced the descriptor behind our back, `device` and `inode` show it, and the file
 * is found by its name as long as it has one. */
typedef struct shmt_file {
    int fd;
    char name[SHMT_FILE_NAME_NBYTES]; /* "/shmt-…-0", or empty */
    dev_t device;
    ino_t inode;
} shmt_file;

/* The page whose mapping owns a held lock byte. */
typedef struct shmt_lock {
    void *page; /* NULL: nothing held */
} shmt_lock;

/* Takes a private duplicate of `fd`; `prefix` is what the ring's names begin with, without the slash; empty: it has
 * none, and a stray close of the descriptor leaves this process unable to look at locks or to reap. `file` is zero. */
shmt_status shmt_file_init(shmt_file *file, int fd, const char *prefix);
void shmt_file_close(shmt_file *file);

/* Takes byte `index` for as long as `lock` is not released. SHMT_BUSY: another description holds it. */
shmt_status shmt_lock_hold(const shmt_file *file, uint32_t index, shmt_lock *lock);
void shmt_lock_release(shmt_lock *lock);

/* True unless the byte is known to be free: when in doubt a process is alive, because a false "alive" is
 * only a leak. Never used to decide a reap: that takes the lock. About 0.5 us. */
bool shmt_lock_is_held(const shmt_file *file, uint32_t index);

/* Takes byte `index` on a fresh description, runs `work(context)` while holding it, lets go.
 * SHMT_BUSY: its tenant lives. Must never be called for an index of this process's own attachment. */
shmt_status shmt_lock_during(const shmt_file *file, uint32_t first, uint32_t count, void (*work)(void *), void *context);

/* Priorities of constructors: who registers handlers for fork in which order. */
#define SHMT_FORK_GUARD 201
#define SHMT_AFTER_FORK_GUARD 202

/* Counts forks of this process: 0 in the original, one more in each generation of children. */
uint32_t shmt_fork_epoch(void);

#endif
