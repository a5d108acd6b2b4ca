#include "extents.h"

#include <stdlib.h>
#include <string.h>

#include "layout.h"

void shmt_extents_destroy(shmt_extents *extents) {
    free(extents->free);
    *extents = (shmt_extents){0};
}

static shmt_status insert(shmt_extents *extents, size_t at, shmt_extent extent) {
    if (extents->length == extents->room) {
        size_t room = extents->room ? extents->room * 2 : 64;
        shmt_extent *grown = realloc(extents->free, room * sizeof *grown);
        if (!grown) return SHMT_NO_MEMORY;
        extents->free = grown;
        extents->room = room;
    }
    memmove(&extents->free[at + 1], &extents->free[at], (extents->length - at) * sizeof extent);
    extents->free[at] = extent;
    extents->length++;
    return SHMT_OK;
}

static void erase(shmt_extents *extents, size_t at) {
    extents->length--;
    memmove(&extents->free[at], &extents->free[at + 1], (extents->length - at) * sizeof *extents->free);
}

shmt_status shmt_extents_grow(shmt_extents *extents, uint32_t segment, uint64_t nbytes) {
    shmt_status status = insert(extents, extents->length, (shmt_extent){segment, 0, nbytes});
    if (status == SHMT_OK) extents->total_nbytes += nbytes;
    return status;
}

static uint64_t round_up(uint64_t value, uint64_t unit) { return (value + unit - 1) & ~(unit - 1); }

shmt_status shmt_extents_take(shmt_extents *extents, uint64_t nbytes, shmt_extent *extent) {
    if (nbytes > extents->total_nbytes) return SHMT_FULL;
    uint64_t unit = nbytes >= SHMT_PAGED_BLOCK_NBYTES ? SHMT_PAGE_NBYTES : SHMT_LINE_NBYTES;
    uint64_t needed = round_up(nbytes ? nbytes : 1, unit);
    for (size_t at = 0; at < extents->length; at++) {
        shmt_extent *found = &extents->free[at];
        uint64_t start = round_up(found->offset, unit), end = found->offset + found->nbytes;
        if (start > end || end - start < needed) continue;
        shmt_extent tail = {found->segment, start + needed, end - start - needed};
        uint64_t gap = start - found->offset;
        *extent = (shmt_extent){found->segment, start, needed};
        if (gap && tail.nbytes) { /* a page-aligned block out of the middle: a line-sized gap stays before it */
            shmt_status status = insert(extents, at + 1, tail);
            if (status != SHMT_OK) return status;
            extents->free[at].nbytes = gap;
        } else if (gap) {
            found->nbytes = gap;
        } else if (tail.nbytes) {
            *found = tail;
        } else {
            erase(extents, at);
        }
        extents->used_nbytes += needed;
        return SHMT_OK;
    }
    return SHMT_FULL;
}

/* First free extent behind (segment, offset). */
static size_t position(const shmt_extents *extents, shmt_extent extent) {
    size_t low = 0, high = extents->length;
    while (low < high) {
        size_t middle = (low + high) / 2;
        const shmt_extent *probe = &extents->free[middle];
        if (probe->segment < extent.segment || (probe->segment == extent.segment && probe->offset < extent.offset))
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

shmt_status shmt_extents_give(shmt_extents *extents, shmt_extent extent) {
    size_t at = position(extents, extent);
    shmt_extent *before = at > 0 ? &extents->free[at - 1] : NULL;
    shmt_extent *after = at < extents->length ? &extents->free[at] : NULL;
    int joins_before = before && before->segment == extent.segment && before->offset + before->nbytes == extent.offset;
    int joins_after = after && after->segment == extent.segment && extent.offset + extent.nbytes == after->offset;
    shmt_status status = SHMT_OK;
    if (joins_before && joins_after) {
        before->nbytes += extent.nbytes + after->nbytes;
        erase(extents, at);
    } else if (joins_before) {
        before->nbytes += extent.nbytes;
    } else if (joins_after) {
        after->offset = extent.offset;
        after->nbytes += extent.nbytes;
    } else {
        status = insert(extents, at, extent);
    }
    if (status == SHMT_OK) extents->used_nbytes -= extent.nbytes;
    return status;
}

uint64_t shmt_extents_largest(const shmt_extents *extents) {
    uint64_t largest = 0;
    for (size_t at = 0; at < extents->length; at++)
        if (extents->free[at].nbytes > largest) largest = extents->free[at].nbytes;
    return largest;
}
