/* attachment.h - one process's place in one ring: its lock, its mappings, what it holds.
 *
 *   create  name -> lock byte 0 -> still linked? -> size -> header -> data segments -> version   (rule 21)
 *   join    checks -> a free byte -> still linked, writer alive? -> scrub -> epoch -> id          (rule 5)
 *   close   id away -> epoch                        others no longer address us
 *   leave   last tensor gone, last ticket settled: lock away -> names, if the last               (rule 22)
 *
 * Threads: `mutex` guards everything process-local and is held across the change of a lease bit, so that
 * count and bit change together (rule 9). Nothing inside it calls Python, waits or allocates Python memory:
 * a finalizer may run in the middle of anything.
 * Trust: what others may store into is believed only as far as it is theirs to say. How many segments there are, where
 * a block lies, which generation it has and whether it is held here the writer knows from its private memory alone.
 * Fork: in a child every function answers SHMT_FORKED or returns first; nothing is unlocked or unmapped.
 */
#ifndef SHMT_ATTACHMENT_H
#define SHMT_ATTACHMENT_H

#include <pthread.h>
#include <stdbool.h>

#include "extents.h"
#include "layout.h"
#include "locks.h"
#include "mapping.h"
#include "names.h"
#include "serving.h"
#include "status.h"

/* What this process holds of one entry. */
typedef struct shmt_local {
    uint32_t generation;
    uint32_t tensors;   /* tensors and pins over the block */
    uint32_t in_flight; /* our unsettled tickets on it */
    uintptr_t address;  /* of the block, while tensors > 0 */
} shmt_local;

/* Address range of a block with at least one tensor here. */
typedef struct shmt_span {
    uintptr_t address;
    uint64_t nbytes;
    uint32_t entry;
} shmt_span;

/* Our side of a ticket. */
typedef struct shmt_sent {
    uint32_t entry;
    uint32_t generation;
    uint32_t sequence;
    uint32_t readers; /* whom it was addressed to; any other bit in the shared word is nobody's */
    bool open;
} shmt_sent;

typedef struct shmt_attachment shmt_attachment;

/* Ends a lease later: true takes over one count, to be given back with shmt_lease_finish() from any thread.
 * Called without the mutex. The keeper hangs here (keeper.h). */
typedef bool (*shmt_defer)(void *context, shmt_attachment *attachment, uint32_t entry, uint32_t generation);

struct shmt_attachment {
    pthread_mutex_t mutex;
    uint32_t index;      /* ours; SHMT_WRITER for the writer */
    uint32_t fork_epoch; /* of the process that made it */
    uint32_t users;      /* Python objects and leases */
    _Atomic bool closed; /* no new calls; what is held stays valid */
    bool left;           /* lock given up: crash simulation or process exit */
    char prefix[SHMT_PREFIX_NBYTES]; /* of its names; empty: the segments are anonymous (memfd) */
    shmt_file file;
    shmt_lock lock;

    shmt_mapping control;
    shmt_header *header;
    shmt_row *rows;
    _Atomic uint64_t *segment_nbytes;
    _Atomic uint64_t *tickets;
    shmt_entry *entries;
    uint32_t entries_length;
    uint64_t capacity_nbytes, ordinary_nbytes; /* of all data segments, of one: as the creator said */
    shmt_mapping segments[SHMT_SEGMENTS];

    shmt_local *locals; /* one an entry */
    shmt_span *spans;   /* sorted by address */
    size_t spans_length, spans_room;
    _Atomic(shmt_defer) defer; /* stored with release behind its context, which is freed with the attachment */
    void *defer_context;

    shmt_sent sent[SHMT_TICKETS];
    uint16_t open_tickets[SHMT_TICKETS], free_tickets[SHMT_TICKETS];
    uint32_t open_length, free_length, settle_cursor;
    uint32_t epoch_seen[SHMT_INDICES];
    pthread_t settler;
    bool settler_runs, settler_stops, settler_idle;

    /* The writer's private memory. */
    shmt_extents extents;
    uint32_t segments_length;
    shmt_extent *held;   /* the extent of each live entry; of no bytes: not live */
    uint32_t *live;      /* entries not yet harvested */
    uint32_t *free_entries; /* a queue: reuse is spread, so generations last */
    uint32_t live_length, free_head, free_entries_length, harvest_cursor;
    uint32_t released_seen;
    shmt_serving *serving; /* of an anonymous ring, else NULL */

    shmt_attachment *next; /* of this process's list, for the way out */
};

/* What somebody is called in the table; 128 random bits and a label. */
typedef struct shmt_peer {
    uint64_t id_low, id_high; /* id_high is never 0: that marks a vacant row */
    char name[SHMT_NAME_NBYTES];
    uint32_t pid;
    uint64_t start_time;
} shmt_peer;

typedef struct shmt_shape {
    uint8_t ring_id[16], boot_id[16];
    uint32_t backing, entries;
    uint64_t capacity_nbytes, segment_nbytes;
} shmt_shape;

/* Both sides of a refused join. */
typedef struct shmt_found {
    uint64_t magic, signature;
    uint32_t version, features;
} shmt_found;

static inline bool shmt_is_anonymous(const shmt_attachment *attachment) { return attachment->prefix[0] == 0; }

/* `fd` is a new, empty control segment; an empty `prefix` says that it is a memfd. SHMT_GONE: a reaper was quicker, take another name. Readers find the
 * ring only after shmt_publish(). */
shmt_status shmt_create(int fd, const char *prefix, const shmt_shape *shape, const shmt_peer *peer, shmt_attachment **out);
shmt_status shmt_publish(shmt_attachment *attachment);

shmt_status shmt_join(int fd, const char *prefix, const shmt_peer *peer, shmt_found *found, shmt_attachment **out);

/* Maps data segment `number` (from 0). In the writer it is also published and given to the allocator. */
shmt_status shmt_add_segment(shmt_attachment *attachment, uint32_t number, int fd, uint64_t nbytes, bool writable);

/* Answers whoever joins an anonymous ring on this listening socket (serving.h). */
shmt_status shmt_serve(shmt_attachment *attachment, int listener, const char *path);

/* SHMT_OK, SHMT_CLOSED or SHMT_FORKED. */
shmt_status shmt_check(const shmt_attachment *attachment);

/* The application is through with the ring, and one user is less. No new calls; others no longer find us in
 * the table and settle what they had sent us: nobody here will open it. What is held stays valid. */
void shmt_close(shmt_attachment *attachment);

/* One user less; with the last one the attachment leaves as soon as its tickets are settled. */
void shmt_drop(shmt_attachment *attachment);

/* Gives up the lock, removes the names if it was the last, frees everything; no user, no open ticket, no settling
 * thread. */
void shmt_leave(shmt_attachment *attachment);

/* Whether another attachment of this process that is not closed has a tensor over these bytes. */
bool shmt_is_held_elsewhere(const shmt_attachment *attachment, uintptr_t address, uint64_t nbytes);

/* For attachment.c: into this process's list, for the way out; and only the freeing, of one that is not in it. */
void shmt_list_add(shmt_attachment *attachment);
void shmt_destroy(shmt_attachment *attachment);

/* Gives up the lock, answers no more and does nothing else: to the others this process has just died. For tests. */
void shmt_abandon(shmt_attachment *attachment);

/* The process ends: gives up every lock and removes the names of rings that nobody uses any more. Tensors
 * stay mapped. Runs by itself at exit(3). */
void shmt_leave_all(void);

/* The one way a bit goes out of a block word; wakes a waiting writer if it was the last (SYNC C-RELEASE).
 * Only for the holder of lock `index`. With `any_generation` the word's own generation is taken. */
void shmt_clear_bit(shmt_attachment *attachment, uint32_t entry, uint32_t index, uint32_t generation, bool any_generation);

/* Takes bit `index` out of every block; the caller holds that index's lock. */
void shmt_clear_everywhere(shmt_attachment *attachment, uint32_t index);

/* Reaps every dead reader; returns how many (rule 6). */
uint32_t shmt_reap(shmt_attachment *attachment);

#endif
