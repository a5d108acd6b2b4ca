#include "handle.h"

#include <string.h>

#define MAGIC 0xB5
#define VERSION 1

typedef struct wire_head {
    uint8_t magic, version, kind, dtype, rank, sender;
    uint16_t ticket;
    uint8_t ring_id[16];
    uint32_t entry, generation;
    uint64_t offset;
    uint32_t sequence;
} __attribute__((packed)) wire_head;

_Static_assert(sizeof(wire_head) == 44, "the fixed part of a handle");
_Static_assert(SHMT_INDICES <= 256 && SHMT_TICKETS <= 65536, "a sender is a byte, a ticket two");

/* CRC-32 as zlib's, half a byte at a time: a table of one cache line, since a handle is short and comes seldom. */
static uint32_t crc32_of(const uint8_t *bytes, size_t nbytes) {
    static const uint32_t of_nibble[16] = {
        0x00000000, 0x1db71064, 0x3b6e20c8, 0x26d930ac, 0x76dc4190, 0x6b6b51f4, 0x4db26158, 0x5005713c,
        0xedb88320, 0xf00f9344, 0xd6d6a3e8, 0xcb61b38c, 0x9b64c2b0, 0x86d3d2d4, 0xa00ae278, 0xbdbdf21c,
    };
    uint32_t crc = UINT32_MAX;
    for (size_t i = 0; i < nbytes; i++) {
        crc = of_nibble[(crc ^ bytes[i]) & 15] ^ crc >> 4;
        crc = of_nibble[(crc ^ bytes[i] >> 4) & 15] ^ crc >> 4;
    }
    return ~crc;
}

size_t shmt_handle_write(const shmt_handle *handle, uint8_t *wire) {
    const shmt_reference *reference = &handle->reference;
    wire_head head = {
        .magic = MAGIC,
        .version = VERSION,
        .kind = handle->kind,
        .dtype = handle->dtype,
        .rank = (uint8_t)handle->rank,
        .sender = (uint8_t)reference->sender,
        .ticket = (uint16_t)reference->ticket,
        .entry = reference->entry,
        .generation = reference->generation,
        .offset = reference->offset,
        .sequence = reference->sequence,
    };
    memcpy(head.ring_id, handle->ring_id, sizeof head.ring_id);
    memcpy(wire, &head, sizeof head);
    size_t used = sizeof head + 8 * handle->rank;
    memcpy(wire + sizeof head, handle->dims, 8 * handle->rank);
    uint32_t crc = crc32_of(wire, used);
    memcpy(wire + used, &crc, sizeof crc);
    return used + sizeof crc;
}

bool shmt_handle_read(shmt_handle *handle, const uint8_t *wire, size_t nbytes) {
    wire_head head;
    if (nbytes < SHMT_HANDLE_NBYTES(0)) return false;
    memcpy(&head, wire, sizeof head);
    if (head.magic != MAGIC || head.version != VERSION || head.rank > SHMT_RANK_MAX) return false;
    if (nbytes != SHMT_HANDLE_NBYTES(head.rank)) return false;
    uint32_t crc;
    memcpy(&crc, wire + nbytes - sizeof crc, sizeof crc);
    if (crc != crc32_of(wire, nbytes - sizeof crc)) return false;
    handle->kind = head.kind;
    handle->dtype = head.dtype;
    handle->rank = head.rank;
    memcpy(handle->ring_id, head.ring_id, sizeof head.ring_id);
    handle->reference = (shmt_reference){
        .entry = head.entry,
        .generation = head.generation,
        .offset = head.offset,
        .sender = head.sender,
        .ticket = head.ticket,
        .sequence = head.sequence,
    };
    memcpy(handle->dims, wire + sizeof head, 8 * (size_t)head.rank);
    return true;
}
