#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/mman.h>

#include "copy.h"
#include "wait.h"

/* Two areas of this size: enough for the largest copy that is timed, little enough that their first touch, at 0.4 to
 * 1 GB/s in a virtual machine, takes no longer than the timing. Cold copies need no areas larger than the cache, since
 * their lines are flushed; bench/bench_copy.py, which does go through such areas, shows that the plan holds there. */
#define AREA_NBYTES ((size_t)4 << 20)

/* A candidate is as good as the fastest if it takes at most so much longer. */
#define WITHIN 1.03

#define ROUNDS_LEAST 3
#define ROUNDS_MOST 15
#define CONTEST_BUDGET_NS 4000000 /* for more rounds than the least */

/* A sample copies about so much, in as many copies as that takes. */
#define COLD_SAMPLE_NBYTES ((size_t)512 << 10)
#define WARM_SAMPLE_NBYTES ((size_t)4 << 20)

#define CANDIDATES_MAX 8

typedef struct candidates {
    shmt_copy_choice choice[CANDIDATES_MAX]; /* the most modest first */
    size_t count;
} candidates;

static void add(candidates *all, unsigned kernel, unsigned threads) {
    if (all->count < CANDIDATES_MAX && shmt_copy_kernel_available(kernel))
        all->choice[all->count++] = (shmt_copy_choice){(uint8_t)kernel, (uint8_t)threads};
}

static int compare(const void *left, const void *right) {
    double a = *(const double *)left, b = *(const double *)right;
    return (a > b) - (a < b);
}

/* The lower quartile: what disturbs a copy only ever slows it, but one sample may have been lucky. */
static double typical(const double *ns, size_t count, size_t candidate, size_t rounds) {
    double column[ROUNDS_MOST];
    for (size_t round = 0; round < rounds; round++) column[round] = ns[round * count + candidate];
    qsort(column, rounds, sizeof *column, compare);
    return column[rounds / 4];
}

/* The first that is as good as the fastest. */
static shmt_copy_choice winner(const candidates *all, const shmt_copy_trial *trial) {
    double ns[ROUNDS_MOST * CANDIDATES_MAX], took[CANDIDATES_MAX], best = 0;
    size_t rounds = 0, chosen = 0;
    if (all->count == 1) return all->choice[0];

    int64_t until = shmt_now_ns() + CONTEST_BUDGET_NS;
    do {
        shmt_copy_time(trial, all->choice, all->count, ns + rounds * all->count);
        rounds += trial->repeats;
    } while (rounds + trial->repeats <= ROUNDS_MOST && shmt_now_ns() < until);

    for (size_t i = 0; i < all->count; i++) {
        took[i] = typical(ns, all->count, i, rounds);
        if (i == 0 || took[i] < best) best = took[i];
    }
    while (took[chosen] > best * WITHIN) chosen++;
    return all->choice[chosen];
}

static unsigned copies_of(size_t nbytes, size_t total_nbytes) {
    return nbytes < total_nbytes ? (unsigned)(total_nbytes / nbytes) : 1;
}

static shmt_copy_trial cold_trial(void *dst, const void *src, size_t nbytes) {
    return (shmt_copy_trial){
        .dst = dst,
        .src = src,
        .area_nbytes = AREA_NBYTES,
        .nbytes = nbytes,
        .copies_a_sample = copies_of(nbytes, COLD_SAMPLE_NBYTES),
        .repeats = ROUNDS_LEAST,
        .evict = true,
    };
}

static shmt_copy_trial warm_trial(void *dst, const void *src, size_t nbytes, size_t area_nbytes) {
    return (shmt_copy_trial){
        .dst = dst,
        .src = src,
        .area_nbytes = area_nbytes,
        .nbytes = nbytes,
        .settling_copies = copies_of(nbytes, area_nbytes),
        .copies_a_sample = copies_of(nbytes, WARM_SAMPLE_NBYTES),
        .repeats = ROUNDS_LEAST,
    };
}

static void measure(void *dst, const void *src, shmt_copy_plan *plan) {
    unsigned limit = shmt_copy_threads_planned();
    size_t cache_nbytes = (size_t)shmt_copy_cache_nbytes();

    /* The non-temporal kernels differ by little, and alike in all classes: one of them is enough for the rest. */
    candidates going_round = {.count = 0};
    add(&going_round, SHMT_COPY_AVX2_NT, 1);
    add(&going_round, SHMT_COPY_AVX512_NT, 1);
    shmt_copy_trial first = cold_trial(dst, src, COLD_SAMPLE_NBYTES);
    unsigned other = going_round.count ? winner(&going_round, &first).kernel : SHMT_COPY_KERNELS;

    /* The tensors that are copied into a ring share the cache with it, and so do others: a quarter is the ring's. */
    plan->warm_limit_nbytes = cache_nbytes / 4;
    size_t warm_nbytes = cache_nbytes / 16 < AREA_NBYTES ? cache_nbytes / 16 : AREA_NBYTES;

    for (unsigned class = 0; class < SHMT_COPY_CLASSES; class++) {
        /* The middle of the class, so that it is off by a factor of two at either end; of the last its beginning. */
        size_t nbytes = 2 * SHMT_COPY_PLANNED_NBYTES << 2 * class;
        if (nbytes > AREA_NBYTES) nbytes = AREA_NBYTES;
        candidates all = {.count = 0};
        for (unsigned threads = 1; threads <= limit; threads *= 2)
            if (threads == 1 || nbytes >= threads * SHMT_COPY_THREAD_NBYTES) {
                add(&all, SHMT_COPY_LIBC, threads);
                add(&all, other, threads);
            }
        shmt_copy_trial cold = cold_trial(dst, src, nbytes);
        plan->cold[class] = winner(&all, &cold);

        /* The last class is a good part of any cache together with its source: as good as cold. */
        shmt_copy_trial warm = warm_trial(dst, src, nbytes, warm_nbytes);
        bool fits = nbytes <= warm_nbytes && class < SHMT_COPY_CLASSES - 1;
        plan->warm[class] = fits ? winner(&all, &warm) : plan->cold[class];
    }
}

static uint64_t *map_area(int kind) {
    void *area = mmap(NULL, AREA_NBYTES, PROT_READ | PROT_WRITE, kind | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    return area == MAP_FAILED ? NULL : area;
}

/* Marsaglia's xorshift64 ("Xorshift RNGs", 2003), for bytes that no hardware takes a short cut for. */
static void fill(uint64_t *area) {
    uint64_t state = 88172645463325252ull;
    for (size_t i = 0; i < AREA_NBYTES / sizeof *area; i++) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        area[i] = state;
    }
}

bool shmt_copy_calibrate(shmt_copy_plan *plan) {
    uint64_t *src = map_area(MAP_PRIVATE); /* as a tensor is */
    uint64_t *dst = map_area(MAP_SHARED);  /* as a segment is */
    if (src && dst) {
        fill(src);
        fill(dst);
        measure(dst, src, plan);
    }
    if (src) munmap(src, AREA_NBYTES);
    if (dst) munmap(dst, AREA_NBYTES);
    return src && dst;
}
