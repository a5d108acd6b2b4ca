#define _GNU_SOURCE
#include "copy_pool.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/mman.h>

#include "kill_points.h"
#include "threads.h"
#include "wait.h"

#define WORKERS_MAX (SHMT_COPY_THREADS_MAX - 1)
#define STACK_NBYTES ((size_t)512 << 10)

/* A copy is cut into more pieces than threads, so that a caller whose workers are slow to wake goes on by itself. A
 * piece is whole pages. */
#define PIECES_A_THREAD 4
#define PAGE_NBYTES ((size_t)4096)

#define SLEEP_NS 3600000000000ll

/* All zeros is a pool that has not been started: that is what a forked child finds, however it was forked, since the
 * page is MADV_WIPEONFORK. The parent's threads do not exist there, and its locks may have been held. */
typedef struct pool {
    _Atomic uint32_t taken;   /* 1 while a copy uses the pool; whoever sets it owns all that is not atomic */
    _Atomic uint32_t waiting; /* 1 if the caller may sleep on `finished` */
    _Atomic uint32_t finished; /* pieces of this copy that are done */
    uint32_t started;          /* workers that exist */
    bool full;                 /* no more will be started */

    /* The copy at hand. Read by workers without the lock: see claim(). */
    _Atomic uint64_t ticket; /* number of the copy << 32 | its next piece to be claimed */
    _Atomic(shmt_copy_function) kernel;
    _Atomic(char *) dst;
    _Atomic(const char *) src;
    _Atomic size_t nbytes;
    _Atomic size_t piece_nbytes;
    _Atomic uint32_t workers; /* those from 0 to here were called to it */

    struct {
        _Alignas(64) _Atomic uint32_t called; /* number of the last copy that this worker was called to */
        _Atomic uint32_t sleeping;
    } worker[WORKERS_MAX];
} pool;

static _Atomic(pool *) the_pool;

/* NULL where the kernel has no MADV_WIPEONFORK (Linux 4.14): without it a child could not tell that it has no
 * threads, so there every copy stays on its caller's thread. */
static pool *get_pool(void) {
    pool *found = atomic_load_explicit(&the_pool, memory_order_acquire);
    if (found) return found;
    pool *made = mmap(NULL, sizeof *made, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (made == MAP_FAILED) return NULL;
    if (madvise(made, sizeof *made, MADV_WIPEONFORK) == 0 && atomic_compare_exchange_strong(&the_pool, &found, made))
        return made;
    munmap(made, sizeof *made);
    return found;
}

static size_t piece_count(size_t nbytes, size_t piece_nbytes) { return (nbytes + piece_nbytes - 1) / piece_nbytes; }

/* Claims one piece of copy `number` and copies it; false when there is none left.
 *
 * The race: a worker is held up here, its copy ends without it, and the caller writes the next copy's fields over the
 * ones that the worker is reading. What may go wrong: it copies a mixture of the two. Why it does not: the fields are
 * used only if the exchange succeeds, so the ticket still had this copy's number and an unclaimed piece *after* they
 * were read; the caller writes new fields only when every piece has been claimed and finished; and no number comes
 * back before 2^32 copies have passed. The store of the ticket (release, in shmt_copy_pool_run) and its load here
 * (acquire) make the fields those of the number. SYNC C-TICKET */
static bool claim(pool *p, uint32_t number) {
    uint64_t ticket = atomic_load_explicit(&p->ticket, memory_order_acquire);
    size_t nbytes, piece_nbytes, offset;
    shmt_copy_function kernel;
    char *dst;
    const char *src;
    do {
        if (ticket >> 32 != number) return false;
        kernel = atomic_load_explicit(&p->kernel, memory_order_relaxed);
        dst = atomic_load_explicit(&p->dst, memory_order_relaxed);
        src = atomic_load_explicit(&p->src, memory_order_relaxed);
        nbytes = atomic_load_explicit(&p->nbytes, memory_order_relaxed);
        piece_nbytes = atomic_load_explicit(&p->piece_nbytes, memory_order_relaxed);
        offset = (uint32_t)ticket * piece_nbytes;
        if (offset >= nbytes) return false;
    } while (!atomic_compare_exchange_weak_explicit(&p->ticket, &ticket, ticket + 1, memory_order_acq_rel,
                                                    memory_order_acquire));

    kernel(dst + offset, src + offset, nbytes - offset < piece_nbytes ? nbytes - offset : piece_nbytes);
    SHMT_KILL_POINT("copy.piece");

    /* SYNC C-FINISHED: the caller's acquire of the last count sees the bytes of every piece. */
    uint32_t finished = atomic_fetch_add(&p->finished, 1) + 1;
    if (finished == piece_count(nbytes, piece_nbytes) && atomic_load(&p->waiting)) shmt_wake(&p->finished);
    return true;
}

/* Returns once `word` differs from `seen`: looks for SHMT_COPY_SPIN_NS, then sleeps. `sleeping` tells the other side
 * that a wake is needed; it is set before the last look, and the other side writes `word` before it looks at
 * `sleeping`, all sequentially consistent, so one of the two sees the other. */
static uint32_t wait_for_change(_Atomic uint32_t *word, uint32_t seen, _Atomic uint32_t *sleeping) {
    uint32_t now;
    int64_t until = shmt_now_ns() + SHMT_COPY_SPIN_NS;
    do {
        for (int look = 0; look < 32; look++) {
            now = atomic_load_explicit(word, memory_order_acquire);
            if (now != seen) return now;
            shmt_copy_relax();
        }
    } while (shmt_now_ns() < until);
    atomic_store(sleeping, 1);
    while ((now = atomic_load(word)) == seen) shmt_wait(word, seen, SLEEP_NS);
    atomic_store(sleeping, 0);
    return now;
}

/* Waking a thread takes its waker up to 30 us, so nobody wakes more than two: the caller worker 0, worker i the
 * workers 2i + 1 and 2i + 2. All were called before the first is woken; one that is still awake comes by itself. */
static void wake(pool *p, uint32_t index, uint32_t workers) {
    if (index < workers && atomic_load(&p->worker[index].sleeping)) shmt_wake(&p->worker[index].called);
}

static void *work(void *argument) {
    pool *p = the_pool;
    uint32_t index = (uint32_t)(uintptr_t)argument;
    uint32_t number = 0;
    for (;;) {
        number = wait_for_change(&p->worker[index].called, number, &p->worker[index].sleeping);
        uint32_t workers = atomic_load_explicit(&p->workers, memory_order_relaxed);
        wake(p, 2 * index + 1, workers);
        wake(p, 2 * index + 2, workers);
        while (claim(p, number));
    }
    return NULL;
}

static void start_worker(pool *p) {
    pthread_t thread;
    pthread_attr_t attributes;
    if (pthread_attr_init(&attributes) != 0) return;
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attributes, STACK_NBYTES);
    p->full = shmt_thread_start(&thread, &attributes, work, (void *)(uintptr_t)p->started) != 0;
    pthread_attr_destroy(&attributes);
    if (p->full) return;
    pthread_setname_np(thread, "shmt-copy");
    p->started++;
}

void shmt_copy_pool_run(shmt_copy_function kernel, unsigned threads, void *dst, const void *src, size_t nbytes) {
    unsigned limit = shmt_copy_threads_limit();
    size_t most = nbytes / SHMT_COPY_THREAD_NBYTES;
    if (threads > limit) threads = limit;
    if (threads > most) threads = (unsigned)most;
    pool *p = threads > 1 ? get_pool() : NULL;
    if (!p || atomic_exchange(&p->taken, 1)) {
        kernel(dst, src, nbytes);
        return;
    }
    while (p->started < threads - 1 && !p->full) start_worker(p);

    size_t piece_nbytes = nbytes / (threads * PIECES_A_THREAD);
    piece_nbytes = (piece_nbytes + PAGE_NBYTES - 1) & ~(PAGE_NBYTES - 1);

    uint32_t number = (uint32_t)(atomic_load_explicit(&p->ticket, memory_order_relaxed) >> 32) + 1;
    atomic_store_explicit(&p->kernel, kernel, memory_order_relaxed);
    atomic_store_explicit(&p->dst, (char *)dst, memory_order_relaxed);
    atomic_store_explicit(&p->src, (const char *)src, memory_order_relaxed);
    atomic_store_explicit(&p->nbytes, nbytes, memory_order_relaxed);
    atomic_store_explicit(&p->piece_nbytes, piece_nbytes, memory_order_relaxed);
    atomic_store(&p->finished, 0);
    atomic_store_explicit(&p->ticket, (uint64_t)number << 32, memory_order_release); /* SYNC C-TICKET */

    uint32_t workers = p->started < threads - 1 ? p->started : threads - 1;
    atomic_store_explicit(&p->workers, workers, memory_order_relaxed);
    for (uint32_t i = 0; i < workers; i++) atomic_store(&p->worker[i].called, number);
    wake(p, 0, workers);
    while (claim(p, number));

    uint32_t pieces = (uint32_t)piece_count(nbytes, piece_nbytes);
    for (uint32_t seen; (seen = atomic_load(&p->finished)) != pieces;) /* SYNC C-FINISHED */
        wait_for_change(&p->finished, seen, &p->waiting);
    atomic_store_explicit(&p->taken, 0, memory_order_release);
}
