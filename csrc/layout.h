/* layout.h - the law of the bytes: everything two processes must agree on.
 *
 * A ring is one control segment, mapped read-write by every process that joined, and 1..1024 data
 * segments, which only the writer writes. This header defines the control segment and nothing else
 * does; shmtransport/layout.py mirrors it and is checked against it at import.
 *
 *   offset (default sizes)
 *   0x00000  +---------------------------+  header: identity, sizes, the wake-up words    4 KiB
 *   0x01000  +---------------------------+  rows: one per index (0 = the writer)          32 x 512 B
 *   0x05000  +---------------------------+  segment sizes                                 1024 x 8 B
 *   0x07000  +---------------------------+  tickets: one row of words per index           32 x 2048 x 8 B
 *   0x87000  +---------------------------+  block table: one entry per block              entries x 64 B
 *            +---------------------------+
 *
 * The block word, the one atomic that decides who may read a block:
 *
 *    63                              32 31                              1   0
 *   +----------------------------------+--------------------------------+---+
 *   | generation: reuses of this entry | one lease bit per reader index | W |
 *   +----------------------------------+--------------------------------+---+
 *
 *   Mask 0 is terminal for its generation. An entry at generation 2^32-1 is retired.
 *
 * The ticket word, a sender's promise that a handle is on its way:
 *
 *    63                              32 31                                 0
 *   +----------------------------------+------------------------------------+
 *   | sequence: never restarts         | indices that have still to open it |
 *   +----------------------------------+------------------------------------+
 *
 * Byte r of the control segment is also the OFD lock byte of index r (locks do not touch the data).
 * All integers are little-endian; the layout is refused on other machines at compile time.
 * Who may write what, and in which order, is docs/protocol.md; the pairs are docs/memory-model.md.
 */
#ifndef SHMT_LAYOUT_H
#define SHMT_LAYOUT_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the shared layout is little-endian"
#endif

#define SHMT_MAGIC 0x676e6972746d6873ull /* "shmtring" */
#define SHMT_LAYOUT_VERSION 1u

#define SHMT_INDICES 32u    /* lease bits in a word: the writer and 31 readers */
#define SHMT_WRITER 0u      /* the writer's own index */
#define SHMT_TICKETS 2048u  /* handles one process can have in flight in one ring */
#define SHMT_SEGMENTS 1024u /* data segments of one ring */
#define SHMT_NAME_NBYTES 32u
#define SHMT_PAGE_NBYTES 4096u
#define SHMT_LINE_NBYTES 64u
/* Blocks of this many bytes and more start on a page; smaller ones on a cache line. */
#define SHMT_PAGED_BLOCK_NBYTES 65536u

/* Kinds of backing. */
#define SHMT_BACKING_POSIX 1u
#define SHMT_BACKING_MEMFD 2u

/* Why bytes went inline instead of by handle; index into shmt_row.inline_transfers. */
enum shmt_inline {
    SHMT_INLINE_SMALL,      /* below the threshold, where sockets win */
    SHMT_INLINE_NOT_JOINED, /* the reader has not joined this ring */
    SHMT_INLINE_FULL,       /* no room after growth and reaping */
    SHMT_INLINE_NO_TICKET,  /* too many handles in flight */
    SHMT_INLINE_UNMAPPABLE, /* the reader could not map a segment */
    SHMT_INLINE_ELSEWHERE,  /* another host, another /dev/shm, another user */
    SHMT_INLINE_NOT_BACKED, /* shared by a process that has no ring to write it into */
    SHMT_INLINE_REASONS = 8
};

typedef struct shmt_header {
    /* Line 0: identity. Written once by the creator; `version` last, with release (SYNC A-READY). */
    uint64_t magic;
    _Atomic uint32_t version;
    uint32_t features; /* feature bits, none defined yet: an unknown bit refuses the join */
    uint64_t signature; /* SHMT_SIGNATURE: catches a build that lies about its version */
    uint8_t ring_id[16];
    uint8_t boot_id[16];
    uint32_t backing;
    uint32_t entries; /* length of the block table */

    /* Line 1: sizes, written once by the creator. */
    uint64_t capacity_nbytes; /* most bytes all data segments together may have */
    uint64_t segment_nbytes;  /* size of an ordinary data segment */
    uint64_t control_nbytes;
    uint64_t created_ns;      /* CLOCK_REALTIME */
    uint64_t reserved0[4];

    /* Line 2: bumped by whoever ends the last lease of a block; the futex a waiting writer sleeps on
     * (SYNC C-RELEASE). A hint only: a crash between the word and this line costs one 50 ms slice. */
    _Atomic uint32_t released;
    uint32_t reserved1[15];

    /* Line 3: non-zero while the writer waits for room: releasers then wake it, openers ring senders. */
    _Atomic uint32_t waiting;
    uint32_t reserved2[15];

    /* Line 4: data segments published so far, stored with release after the size (SYNC D-SEGMENT). */
    _Atomic uint32_t segments;
    uint32_t reserved3[15];

    uint8_t reserved4[SHMT_PAGE_NBYTES - 5 * SHMT_LINE_NBYTES];
} shmt_header;

/* One row per index. Only the tenant writes it, with two exceptions: anybody rings the bell, and a reaper,
 * who holds the tenant's lock byte, takes the id away. */
typedef struct shmt_row {
    /* Line 0: who. id_high is stored last when joining and first cleared when leaving (SYNC E-JOIN). */
    _Atomic uint64_t id_low;
    _Atomic uint64_t id_high;
    _Atomic uint32_t epoch; /* tenants so far; a sender compares it with what it saw (rule 16) */
    _Atomic uint32_t unmappable; /* non-zero: it could not map a segment, serve it inline (rule 23) */
    uint32_t pid;           /* for people only: nothing is ever decided by it */
    uint32_t reserved0;
    uint64_t start_time;    /* of the process, clock ticks after boot; for people only */
    uint64_t joined_ns;     /* CLOCK_MONOTONIC */
    uint64_t reserved1[2];

    /* Line 1: label and bell. The bell is the futex of this process's settling thread. */
    char name[SHMT_NAME_NBYTES];
    _Atomic uint32_t bell;
    uint32_t reserved2[7];

    /* Line 2: counters, single writer, relaxed. */
    _Atomic uint64_t written_nbytes; /* in blocks made by the writer, copied into or filled in place */
    _Atomic uint64_t writes;         /* such blocks */
    _Atomic uint64_t shared;         /* handles made */
    _Atomic uint64_t opened;         /* handles opened */
    _Atomic uint64_t opened_nbytes;
    _Atomic uint64_t reaps;          /* dead indices whose bits this process cleared */
    _Atomic uint64_t wait_ns;        /* spent waiting for room */
    _Atomic uint64_t revoked;        /* tickets taken back */

    /* Line 3: counters, single writer, relaxed: transfers that went inline, by enum shmt_inline. */
    _Atomic uint64_t inline_transfers[SHMT_INLINE_REASONS];

    /* Line 4: counters, single writer, relaxed. */
    _Atomic uint64_t copied_nbytes; /* of written_nbytes: copied by put, the rest was filled in place */
    _Atomic uint64_t copy_ns;       /* spent in these copies */
    uint64_t reserved3[6];

    uint8_t reserved4[3 * SHMT_LINE_NBYTES];
} shmt_row;

typedef struct shmt_entry {
    _Atomic uint64_t word; /* generation and lease mask: see above */
    uint64_t offset;       /* in the segment. Fields are stored before the word (SYNC B-PUT) */
    uint64_t nbytes;
    uint64_t charged_ns;   /* CLOCK_MONOTONIC when this generation began */
    uint32_t segment;
    uint32_t reserved0;
    uint64_t reserved1[3];
} shmt_entry;

#define SHMT_ROWS_OFFSET ((uint64_t)SHMT_PAGE_NBYTES)
#define SHMT_SIZES_OFFSET (SHMT_ROWS_OFFSET + SHMT_INDICES * sizeof(shmt_row))
#define SHMT_TICKETS_OFFSET (SHMT_SIZES_OFFSET + SHMT_SEGMENTS * 8ull)
#define SHMT_ENTRIES_OFFSET (SHMT_TICKETS_OFFSET + SHMT_INDICES * SHMT_TICKETS * 8ull)

#define SHMT_SIGNATURE                                                                                  \
    (((uint64_t)sizeof(shmt_header) << 48) | ((uint64_t)sizeof(shmt_row) << 36) |                       \
     ((uint64_t)sizeof(shmt_entry) << 28) | ((uint64_t)SHMT_INDICES << 20) | ((uint64_t)SHMT_TICKETS << 4) | 1u)

#define SHMT_AT(type, field, offset) \
    _Static_assert(offsetof(type, field) == (offset), #type "." #field " moved")

SHMT_AT(shmt_header, magic, 0);
SHMT_AT(shmt_header, version, 8);
SHMT_AT(shmt_header, features, 12);
SHMT_AT(shmt_header, signature, 16);
SHMT_AT(shmt_header, ring_id, 24);
SHMT_AT(shmt_header, boot_id, 40);
SHMT_AT(shmt_header, backing, 56);
SHMT_AT(shmt_header, entries, 60);
SHMT_AT(shmt_header, capacity_nbytes, 64);
SHMT_AT(shmt_header, segment_nbytes, 72);
SHMT_AT(shmt_header, control_nbytes, 80);
SHMT_AT(shmt_header, created_ns, 88);
SHMT_AT(shmt_header, released, 128);
SHMT_AT(shmt_header, waiting, 192);
SHMT_AT(shmt_header, segments, 256);
_Static_assert(sizeof(shmt_header) == SHMT_PAGE_NBYTES, "the header is one page");

SHMT_AT(shmt_row, id_low, 0);
SHMT_AT(shmt_row, id_high, 8);
SHMT_AT(shmt_row, epoch, 16);
SHMT_AT(shmt_row, unmappable, 20);
SHMT_AT(shmt_row, pid, 24);
SHMT_AT(shmt_row, start_time, 32);
SHMT_AT(shmt_row, joined_ns, 40);
SHMT_AT(shmt_row, name, 64);
SHMT_AT(shmt_row, bell, 96);
SHMT_AT(shmt_row, written_nbytes, 128);
SHMT_AT(shmt_row, writes, 136);
SHMT_AT(shmt_row, shared, 144);
SHMT_AT(shmt_row, opened, 152);
SHMT_AT(shmt_row, opened_nbytes, 160);
SHMT_AT(shmt_row, reaps, 168);
SHMT_AT(shmt_row, wait_ns, 176);
SHMT_AT(shmt_row, revoked, 184);
SHMT_AT(shmt_row, inline_transfers, 192);
SHMT_AT(shmt_row, copied_nbytes, 256);
SHMT_AT(shmt_row, copy_ns, 264);
_Static_assert(sizeof(shmt_row) == 512, "a row is eight cache lines");

SHMT_AT(shmt_entry, word, 0);
SHMT_AT(shmt_entry, offset, 8);
SHMT_AT(shmt_entry, nbytes, 16);
SHMT_AT(shmt_entry, charged_ns, 24);
SHMT_AT(shmt_entry, segment, 32);
_Static_assert(sizeof(shmt_entry) == SHMT_LINE_NBYTES, "an entry is one cache line");

_Static_assert(SHMT_INDICES == 32, "the lease mask is the low half of the word");
_Static_assert(ATOMIC_LLONG_LOCK_FREE == 2 && ATOMIC_INT_LOCK_FREE == 2, "shared words must be lock-free");

static inline uint64_t shmt_control_nbytes(uint32_t entries) {
    uint64_t nbytes = SHMT_ENTRIES_OFFSET + (uint64_t)entries * sizeof(shmt_entry);
    return (nbytes + SHMT_PAGE_NBYTES - 1) & ~(uint64_t)(SHMT_PAGE_NBYTES - 1);
}

/* Parts of a block or ticket word: the high half (generation, sequence) and the low half (a mask). */
static inline uint64_t shmt_word(uint32_t high, uint32_t mask) { return (uint64_t)high << 32 | mask; }
static inline uint32_t shmt_word_high(uint64_t word) { return (uint32_t)(word >> 32); }
static inline uint32_t shmt_word_mask(uint64_t word) { return (uint32_t)word; }
static inline uint32_t shmt_bit(uint32_t index) { return 1u << index; }

#endif
