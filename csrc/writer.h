/* writer.h - allocating blocks: only the writer of a ring does, under its attachment's mutex. */
#ifndef SHMT_WRITER_H
#define SHMT_WRITER_H

#include "leases.h"

/* A new block with the writer's lease on it, uninitialised. SHMT_FULL: no room among the present segments
 * even after everything finished was collected: grow, wait, or go inline. SHMT_NO_ENTRY: the table is full. */
shmt_status shmt_allocate(shmt_attachment *attachment, uint64_t nbytes, shmt_lease *lease);

/* The same, waiting up to `timeout_ns` for releases; reaps the dead meanwhile. SHMT_TIMEOUT at the deadline.
 * Sleeps in slices of 50 ms at most; other threads go on (the mutex is free while it sleeps). */
shmt_status shmt_allocate_wait(shmt_attachment *attachment, uint64_t nbytes, int64_t timeout_ns, shmt_lease *lease);

/* Mask of the indices that hold this block; 0 once it was given back. Our own bit is in it while we hold it, whatever the
 * shared word says. */
uint32_t shmt_holders(shmt_attachment *attachment, uint32_t entry, uint32_t generation);

/* Waits until somebody has ended the last lease of a block since `released` was what shmt_released() said; reaps the
 * dead. One slice of 50 ms at most; the caller looks at its condition again. */
uint32_t shmt_released(const shmt_attachment *attachment);
shmt_status shmt_wait_released(shmt_attachment *attachment, uint32_t released, int64_t timeout_ns);

/* For the statistics: a copy into a block, and what it took. */
void shmt_count_copied(shmt_attachment *attachment, uint64_t nbytes, uint64_t copy_ns);

/* Bytes in blocks that are not harvested yet, bytes in all segments, largest free extent. */
typedef struct shmt_room {
    uint64_t used_nbytes, total_nbytes, largest_nbytes;
    uint32_t live;
} shmt_room;

/* Collects first. */
void shmt_room_now(shmt_attachment *attachment, shmt_room *room);

#endif
