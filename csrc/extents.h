/* extents.h - the writer's private allocator: which bytes of which segment are free.
 *
 * Address-ordered first fit over all segments, neighbours joined on free. Low addresses are reused first,
 * so a ring that needs little touches little: its pages stay in cache and TLB however large its capacity.
 * Freed in any order: one long-lived block holds up nothing but itself. Not thread-safe: the caller holds
 * the attachment's mutex. Never in shared memory: the allocator dies with its writer, and the ring too. */
#ifndef SHMT_EXTENTS_H
#define SHMT_EXTENTS_H

#include <stddef.h>
#include <stdint.h>

#include "status.h"

typedef struct shmt_extent {
    uint32_t segment;
    uint64_t offset;
    uint64_t nbytes;
} shmt_extent;

typedef struct shmt_extents {
    shmt_extent *free; /* sorted by (segment, offset), no two adjacent */
    size_t length;
    size_t room;
    uint64_t used_nbytes;
    uint64_t total_nbytes;
} shmt_extents;

void shmt_extents_destroy(shmt_extents *extents);

/* The next segment, wholly free. */
shmt_status shmt_extents_grow(shmt_extents *extents, uint32_t segment, uint64_t nbytes);

/* Rounds up to cache lines, or to pages from SHMT_PAGED_BLOCK_NBYTES on. SHMT_FULL: no extent is large
 * enough. `extent` must be given back whole. */
shmt_status shmt_extents_take(shmt_extents *extents, uint64_t nbytes, shmt_extent *extent);
shmt_status shmt_extents_give(shmt_extents *extents, shmt_extent extent);

uint64_t shmt_extents_largest(const shmt_extents *extents);

#endif
