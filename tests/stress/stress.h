/* stress.h - writers and readers, many threads each, on the pure C core; each byte checked, everything back at the end.
 *
 *     stress.c        the run: starts them, waits, checks that nothing is left
 *     writers.c       a writer's life: rings one after another, blocks, growth
 *     readers.c       a reader's life: joins, opens, forwards, reaps, closes, dies
 *     segments.c      of either backing, made and found
 *     places.c        an attachment and who may still use it
 *     sharing.c       a handle to some readers, kept, lost, doubled or revoked
 *     payloads.c      what the bytes of a block are
 *     mail.c          how a handle travels
 *     one_address.c   for ThreadSanitizer, in the place of csrc/mapping.c
 *     kernel_order.c  for ThreadSanitizer: what a lock of the kernel orders
 *
 * Open file description locks belong to descriptions, so several attachments of one process exclude each other as those
 * of several processes do. A writer or reader here is a "process": two threads share its attachments. What the threads
 * of two "processes" know of each other they know by relaxed atomics and by mail, as processes would by a socket: no
 * order that the core does not make itself. ThreadSanitizer would take any other for the core's. */
#ifndef STRESS_H
#define STRESS_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "leases.h"
#include "tickets.h"
#include "writer.h"

#define MOST 16u          /* writers, and readers */
#define THREADS 2u        /* of each writer and of each stress_reader */
#define ENTRIES 96u       /* few, so that SHMT_NO_ENTRY occurs */
#define SEGMENT_NBYTES (256u << 10)
#define SEGMENTS_MOST 4u  /* the first and three of growth */
#define LARGE_NBYTES (1u << 20) /* a payload that the copy pool takes: two threads with 512 KiB each */
#define HELD_MOST 12u     /* leases that one thread keeps */

/* Pseudo-random numbers, one row of them a thread. */
typedef struct stress_chance {
    uint64_t state;
} stress_chance;

uint64_t draw(stress_chance *chance, uint64_t below);
bool one_in(stress_chance *chance, uint64_t many);

/* An attachment and the right to use it. Never freed before the end of the run: whoever held one may look whether it
 * is over. */
typedef struct stress_place {
    pthread_rwlock_t guard; /* shared during a call, exclusive to end it */
    shmt_attachment *attachment;
    uint32_t writer;
    uint64_t life; /* which of the writer's rings */
    bool over;     /* closed or dead: no more calls */
    bool dead;     /* abandoned: what was held may be reused by now, nobody looks at it */
    struct stress_place *older;
} stress_place;

typedef struct stress_held {
    stress_place *place;
    shmt_lease lease;
    uint64_t payload; /* what its bytes are */
    uint64_t offset;  /* in the block */
} stress_held;

typedef struct stress_message {
    uint32_t writer;
    uint64_t life, payload;
    shmt_reference reference;
} stress_message;

/* A ring as the others know it. */
typedef struct stress_ring {
    _Atomic uint64_t life; /* of the ring that can be joined; 0: none yet */
    _Atomic(stress_place *) place; /* the writer's; only its own threads look */
    pthread_mutex_t growth;
} stress_ring;

typedef struct stress_reader {
    int outer, inner; /* ends of its inbox */
    _Atomic(stress_place *) places[MOST];
    pthread_mutex_t joining[MOST];
    _Atomic uint64_t id_low[MOST], id_high[MOST]; /* what it is called in each ring */
    pthread_mutex_t bag_guard;
    stress_held bag[HELD_MOST]; /* leases that one of its threads leaves for the other to end */
    uint32_t bag_length;
} stress_reader;

/* What happened, so that a run in which something never happened is seen. */
enum event {
    BLOCKS, LARGE, OPENED, STALE, AGAIN, SHARED, BROADCAST, FORWARDED, REVOKED, LOST, DOUBLED, GROWN, MAPPED, FULL,
    WAITED, CLOSED, DIED, REAPED, RINGS, WRITERS_DIED, DEFERRED, HANDED_OVER, NOT_JOINED, REFUSED_JOINS, SWEEPS,
    EVENTS
};
extern _Atomic uint64_t events[EVENTS];
void count(enum event event, uint64_t times);

extern uint32_t writers, readers;
extern uint64_t seed, blocks_a_thread;
extern stress_ring rings[MOST];
extern stress_reader the_readers[MOST];
extern _Atomic bool ending; /* the writers are through: readers empty their inbox and go */

/* Ends the run: the core broke a promise. */
_Noreturn void broken(const char *what, ...) __attribute__((format(printf, 1, 2)));

/* segments.c: those of the `life`th ring of a writer */
void segments_begin(uint64_t run_number, const char *of_sockets); /* a folder, empty but for them */
bool is_anonymous(uint32_t writer, uint64_t life);
void ring_id(uint8_t id[16], uint32_t writer, uint64_t life);
void ring_prefix(char prefix[SHMT_PREFIX_NBYTES], uint32_t writer, uint64_t life); /* empty: it is anonymous */
void serve_ring(shmt_attachment *attachment, uint32_t writer, uint64_t life);
int open_segment(uint32_t writer, uint64_t life, uint32_t number, bool create); /* descriptor, -1 if there is none */
void sweep(uint32_t writer, uint64_t life);
void sweep_dead(uint32_t writer, uint64_t life); /* the last one out died, or its writer: names wait for a sweep */
uint32_t names_left(void);
uint32_t entries_of(const char *path, const char *beginning);

/* places.c */
stress_place *place_new(shmt_attachment *attachment, uint32_t writer, uint64_t life);
bool place_enter(stress_place *place); /* false: it is over */
void place_exit(stress_place *place);
bool place_end(stress_place *place, bool dies); /* false: it was over already */
void places_free(void);
void after_the_dead(void (*clean)(uint32_t writer, uint64_t life)); /* for each ring in which somebody died */
void held_check(const stress_held *held); /* each byte, unless its place has died */
void held_end(stress_held *held);
void ends_may_come_later(shmt_attachment *attachment); /* before its first lease */
void deferred_begin(uint64_t number); /* of the thread that calls */
void deferred_finish(void);

/* sharing.c: a handle of what is held to one or more readers. The caller has entered the place. */
void spread(const stress_held *held, stress_chance *chance);

/* payloads.c */
void payload_write(uint8_t *address, uint64_t nbytes, uint64_t payload);
bool payload_is(const uint8_t *address, uint64_t nbytes, uint64_t payload, uint64_t offset);

/* mail.c */
void mail_open(stress_reader *reader);
bool mail_send(stress_reader *reader, const stress_message *message); /* false: the inbox is full */
bool mail_receive(stress_reader *reader, stress_message *message); /* waits up to 5 ms */

void *writer_thread(void *argument); /* number of the writer * THREADS + number of the thread */
void *reader_thread(void *argument);

#ifdef ONE_ADDRESS
uint32_t regions_mapped(void); /* still */
#else
static inline uint32_t regions_mapped(void) { return 0; }
#endif

#endif
