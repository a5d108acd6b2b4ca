/* names.h - removing a ring's names from /dev/shm.
 *
 * Names are "/shmt-<uid>-<ring id>-<n>": n = 0 is the control segment, 1, 2, … the data segments. They are
 * created by shmtransport/segment.py (posix_ipc); they are removed here, because the last lease of a ring
 * may end on a thread that has no Python. */
#ifndef SHMT_NAMES_H
#define SHMT_NAMES_H

#include "locks.h"
#include "status.h"

#define SHMT_PREFIX_NBYTES 64

/* Unlinks every name that begins with `prefix` ("shmt-<uid>-<ring id>-"): data names first, the control
 * name last, only while holding all lock bytes (rule 22), so after this process gave up its own.
 * SHMT_BUSY: somebody is attached, and the last one out will do it. */
shmt_status shmt_names_unlink(const shmt_file *control, const char *prefix);

/* The same for who uses `control` no more. A process at its limit of descriptors has none to open the file anew with:
 * then its own is closed for that. What remains after all is removed by a sweep. */
shmt_status shmt_names_unlink_leaving(shmt_file *control, const char *prefix);

/* We have left this ring while others seemed to be attached. */
void shmt_names_remember(const char *prefix);

/* Once more for those rings (the last 64): the kernel ends a killed process bit by bit, and its lock byte may have gone
 * a moment after we looked. For the process's end; what even then seems to be in use is left to the next sweep. */
void shmt_names_try_again(void);

#endif
