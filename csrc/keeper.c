#define _GNU_SOURCE
#include "keeper.h"

#include <stdlib.h>

#include "cuda.h"
#include "leases.h"
#include "threads.h"
#include "wait.h"

#define NONE UINT32_MAX
#define FIRST_SLICE_NS 20000ll
#define LONGEST_SLICE_NS 20000000ll
#define IDLE_SLICE_NS 1000000000ll
#define CAPTURE_SLICE_NS 10000000ll
#define STOP_NS 100000000ll

/* Of one entry: how many of its leases were kept since the last event, and how many wait for that one; each a link of a
 * list through the entries. No lease costs memory of its own: a finalizer has nobody to tell that there is none. */
typedef struct kept {
    uint32_t generation;
    uint32_t arrived, arrived_next;
    uint32_t waiting, waiting_next;
} kept;

/* Of one attachment; its defer_context. */
typedef struct keeping {
    shmt_attachment *attachment;
    struct keeping *arrived_link, *waiting_link;
    uint32_t arrived_head, waiting_head;
    kept entries[];
} keeping;

static pthread_mutex_t guard = PTHREAD_MUTEX_INITIALIZER;         /* of what follows */
static keeping *arrivals;                                         /* attachments with leases that arrived */
static bool runs;
static _Atomic uint64_t leases;                                   /* kept in all */
static pthread_mutex_t capture_guard = PTHREAD_MUTEX_INITIALIZER; /* held while events are recorded */
static int captures;
static _Atomic uint32_t bell;
static _Atomic bool sleeps, stops;
static _Atomic uint32_t has_ended;

static void ring(void) {
    atomic_fetch_add_explicit(&bell, 1, memory_order_seq_cst);
    if (atomic_load_explicit(&sleeps, memory_order_seq_cst)) shmt_wake(&bell);
}

static bool keep(void *context, shmt_attachment *attachment, uint32_t entry, uint32_t generation) {
    (void)attachment;
    keeping *own = context;
    kept *at = &own->entries[entry];
    pthread_mutex_lock(&guard);
    at->generation = generation; /* the same for all of them: the entry is not reused while one is kept */
    if (at->arrived++ == 0) {
        at->arrived_next = own->arrived_head;
        if (own->arrived_head == NONE) {
            own->arrived_link = arrivals;
            arrivals = own;
        }
        own->arrived_head = entry;
    }
    leases++;
    pthread_mutex_unlock(&guard);
    ring();
    return true;
}

/* -- the keeper ---------------------------------------------------------------------------------------------------- */

static void sleep_until_rung(uint32_t seen, int64_t timeout_ns) {
    atomic_store_explicit(&sleeps, true, memory_order_seq_cst);
    shmt_wait(&bell, seen, timeout_ns);
    atomic_store_explicit(&sleeps, false, memory_order_seq_cst);
}

/* All that have arrived now wait for the next event. */
static keeping *take(void) {
    pthread_mutex_lock(&guard);
    keeping *taken = arrivals;
    arrivals = NULL;
    for (keeping *own = taken; own; own = own->waiting_link) {
        own->waiting_link = own->arrived_link;
        own->waiting_head = own->arrived_head;
        own->arrived_head = NONE;
        for (uint32_t e = own->waiting_head; e != NONE; e = own->entries[e].waiting_next) {
            kept *at = &own->entries[e];
            at->waiting = at->arrived;
            at->waiting_next = at->arrived_next;
            at->arrived = 0;
        }
    }
    pthread_mutex_unlock(&guard);
    return taken;
}

/* False while somebody captures. */
static bool record(void) {
    pthread_mutex_lock(&capture_guard);
    bool may = captures == 0;
    bool done = may && shmt_cuda_record();
    pthread_mutex_unlock(&capture_guard);
    return done;
}

/* The last lease of an attachment may take it along, and `own` with it. */
static void finish(keeping *own) {
    shmt_attachment *attachment = own->attachment;
    for (uint32_t e = own->waiting_head; e != NONE;) {
        kept *at = &own->entries[e];
        uint32_t length = at->waiting, generation = at->generation, next = at->waiting_next;
        leases -= length;
        for (uint32_t i = 0; i < length; i++) shmt_lease_finish(attachment, e, generation);
        e = next;
    }
}

/* While it runs, and until the process ends. Each question takes the driver's locks from the thread that launches kernels,
 * so it is asked after twice the time: a lease ends at most twice as late as it could. */
static void wait_for_event(void) {
    int64_t slice = FIRST_SLICE_NS;
    while (!stops && !shmt_cuda_passed()) {
        uint32_t seen = atomic_load_explicit(&bell, memory_order_acquire);
        shmt_wait(&bell, seen, slice); /* nobody wakes it but shmt_keeper_stop(): `sleeps` is false */
        if (slice < LONGEST_SLICE_NS) slice *= 2;
    }
}

static void *keep_until_stopped(void *unused) {
    (void)unused;
    shmt_cuda_own_thread();
    while (!stops) {
        uint32_t seen = atomic_load_explicit(&bell, memory_order_acquire);
        keeping *taken = take();
        if (!taken) {
            sleep_until_rung(seen, IDLE_SLICE_NS);
            continue;
        }
        while (!stops && !record()) sleep_until_rung(seen, CAPTURE_SLICE_NS);
        if (!stops) wait_for_event();
        if (stops) break; /* what is kept stays kept */
        for (keeping *next; taken; taken = next) {
            next = taken->waiting_link;
            finish(taken);
        }
    }
    atomic_store_explicit(&has_ended, 1, memory_order_release);
    shmt_wake(&has_ended);
    return NULL;
}

/* -- its life ------------------------------------------------------------------------------------------------------ */

static void before_fork(void) {
    pthread_mutex_lock(&capture_guard);
    pthread_mutex_lock(&guard);
}

static void after_fork_in_parent(void) {
    pthread_mutex_unlock(&guard);
    pthread_mutex_unlock(&capture_guard);
}

static void forget_in_child(void) {
    pthread_mutex_init(&guard, NULL);
    pthread_mutex_init(&capture_guard, NULL);
    arrivals = NULL;
    leases = 0;
    captures = 0;
    runs = sleeps = stops = false;
    has_ended = 0;
    shmt_cuda_forget();
}

/* Called with the guard held. */
static bool start(void) {
    static bool watched;
    if (!watched) { /* after the driver's own handlers, so that ours run first when the process ends */
        pthread_atfork(before_fork, after_fork_in_parent, forget_in_child);
        atexit(shmt_keeper_stop);
        watched = true;
    }
    pthread_t thread;
    bool started = shmt_thread_start(&thread, NULL, keep_until_stopped, NULL) == 0;
    if (started) pthread_detach(thread);
    return started;
}

void shmt_keeper_stop(void) {
    if (!runs) return;
    atomic_store(&stops, true);
    atomic_fetch_add(&bell, 1);
    shmt_wake(&bell);
    int64_t until = shmt_now_ns() + STOP_NS;
    for (int64_t now; !atomic_load(&has_ended) && (now = shmt_now_ns()) < until;) shmt_wait(&has_ended, 0, until - now);
}

shmt_status shmt_keep(shmt_attachment *attachment) {
    shmt_status status = shmt_check(attachment);
    if (status != SHMT_OK || atomic_load(&attachment->defer)) return status;
    keeping *own = calloc(1, sizeof *own + attachment->entries_length * sizeof *own->entries);
    if (!own) return SHMT_NO_MEMORY;
    own->attachment = attachment;
    own->arrived_head = own->waiting_head = NONE;
    pthread_mutex_lock(&guard);
    runs = runs || start();
    bool running = runs;
    pthread_mutex_unlock(&guard);
    if (!running) {
        free(own);
        return SHMT_SYSTEM;
    }
    attachment->defer_context = own;
    atomic_store_explicit(&attachment->defer, keep, memory_order_release);
    return SHMT_OK;
}

shmt_status shmt_pin(shmt_attachment *attachment, uint32_t number, int *code) {
    shmt_status status = shmt_check(attachment);
    if (status != SHMT_OK) return status;
    pthread_mutex_lock(&attachment->mutex);
    shmt_mapping *mapping = number < SHMT_SEGMENTS ? &attachment->segments[number] : NULL;
    bool ready = mapping && mapping->base && atomic_load(&attachment->defer);
    pthread_mutex_unlock(&attachment->mutex);
    if (!ready) return SHMT_NEED_SEGMENT;
    *code = mapping->pinned ? 0 : shmt_cuda_register(mapping->base, mapping->nbytes, mapping->writable);
    mapping->pinned = *code == 0;
    return SHMT_OK;
}

void shmt_capturing(int change) {
    pthread_mutex_lock(&capture_guard);
    captures += change;
    pthread_mutex_unlock(&capture_guard);
    ring();
}

uint64_t shmt_kept(void) { return leases; }
