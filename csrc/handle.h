/* handle.h - the bytes of a handle (docs/protocol.md, "Handle"), for who makes or opens one in a single call.
 *
 * shmtransport/handles.py reads and writes the same bytes and says what is wrong with those that are no handle. Pure:
 * any thread, nothing shared. */
#ifndef SHMT_HANDLE_H
#define SHMT_HANDLE_H

#include "leases.h"

#define SHMT_KIND_TORCH 0u
#define SHMT_RANK_MAX 64u
#define SHMT_HANDLE_NBYTES(rank) (44u + 8u * (rank) + 4u)
#define SHMT_HANDLE_NBYTES_MAX SHMT_HANDLE_NBYTES(SHMT_RANK_MAX)

typedef struct shmt_handle {
    uint8_t kind, dtype;
    uint32_t rank;
    uint8_t ring_id[16];
    shmt_reference reference; /* its nbytes do not travel: they follow from dtype and dims */
    uint64_t dims[SHMT_RANK_MAX];
} shmt_handle;

/* Writes SHMT_HANDLE_NBYTES(rank) bytes, and returns how many. */
size_t shmt_handle_write(const shmt_handle *handle, uint8_t *wire);

/* False for what is no undamaged handle of this version. Otherwise every field is as it was sent, which says nothing
 * about what it names. */
bool shmt_handle_read(shmt_handle *handle, const uint8_t *wire, size_t nbytes);

#endif
