/* copy.h - how the bytes of a block are written, and who decides with which kernel.
 *
 *     copy.c            the plan, and the copy that follows it
 *     copy_kernels.c    one thread's work: libc, AVX2 and AVX-512 non-temporal
 *     copy_pool.c       the same work shared by several threads
 *     copy_cache.c      what this machine's cache holds
 *     copy_time.c       kernels timed side by side
 *     copy_calibrate.c  a plan made from such timings
 *
 * Which kernel is fastest cannot be known beforehand: non-temporal stores nearly double memcpy on one machine and
 * slow it by a third on another, and threads do the reverse (the figures and the choice are in
 * docs/decisions/0002-copy-kernel-chosen-by-measurement.md). So a process measures once and keeps the answer as its
 * plan. Until a plan is set every copy is libc's memcpy on the caller's thread.
 *
 * Every function may be called from any thread. A forked child keeps the plan, and starts pool threads of its own
 * when a copy first asks for them. Nothing here calls Python. */
#ifndef SHMT_COPY_H
#define SHMT_COPY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum shmt_copy_kernel {
    SHMT_COPY_LIBC = 0,      /* memcpy: leaves the bytes in the cache */
    SHMT_COPY_AVX2_NT = 1,   /* 32-byte stores that go round the cache, behind prefetchnta */
    SHMT_COPY_AVX512_NT = 2, /* the same with 64-byte stores */
    SHMT_COPY_KERNELS = 3,
} shmt_copy_kernel;

/* Copies of fewer bytes are always libc's memcpy on the caller's thread: what another kernel gains in writing them,
 * the reader loses by finding them outside the cache. */
#define SHMT_COPY_PLANNED_NBYTES ((size_t)64 << 10)

/* All others fall into classes: class i begins at SHMT_COPY_PLANNED_NBYTES << 2 * i, the last has no end. */
#define SHMT_COPY_CLASSES 4

#define SHMT_COPY_THREADS_MAX 8

/* No thread is woken for fewer bytes: in a virtual machine that alone can take 30 us. */
#define SHMT_COPY_THREAD_NBYTES ((size_t)512 << 10)

typedef struct shmt_copy_choice {
    uint8_t kernel;  /* shmt_copy_kernel */
    uint8_t threads; /* how many work on one copy at most, the caller among them; 0 is 1 */
} shmt_copy_choice;

typedef struct shmt_copy_plan {
    uint64_t warm_limit_nbytes;               /* a ring that rotates through more does not stay in the cache */
    shmt_copy_choice warm[SHMT_COPY_CLASSES]; /* for rings within the limit */
    shmt_copy_choice cold[SHMT_COPY_CLASSES]; /* for all others */
} shmt_copy_plan;

/* Copies `nbytes` from `src` to `dst`, which must not overlap, as the process's plan says for this size and for a
 * ring that rotates through `footprint_nbytes`. A release store of the calling thread is enough to publish the bytes
 * afterwards, whatever the kernel: it has ended its non-temporal stores with a fence. */
void shmt_copy(void *dst, const void *src, size_t nbytes, uint64_t footprint_nbytes);

/* The same as the caller chooses. A kernel that this CPU lacks is libc. Fewer threads work on it than were chosen where
 * the process has fewer CPUs (shmt_copy_threads_limit) or each would get less than SHMT_COPY_THREAD_NBYTES, and only
 * the caller's while another copy has the pool. */
void shmt_copy_with(shmt_copy_choice choice, void *dst, const void *src, size_t nbytes);

const char *shmt_copy_kernel_name(shmt_copy_kernel kernel); /* "libc", "avx2-nt", "avx512-nt" */
bool shmt_copy_kernel_available(shmt_copy_kernel kernel);   /* on this CPU, under this operating system */

/* CPUs that the calling thread may run on (sched_getaffinity), at most SHMT_COPY_THREADS_MAX. */
unsigned shmt_copy_threads_limit(void);

/* The most that a plan made by shmt_copy_calibrate() has: half of those CPUs, at least 1. The others are for the
 * readers, who work on the payload as soon as they are told of it; what a copy gains on their CPUs, they lose. */
unsigned shmt_copy_threads_planned(void);

/* Size of the last-level cache as /sys/devices/system/cpu tells it, held between 2 and 64 MiB: a larger one is shared
 * with neighbours, if it is there at all. 16 MiB where /sys says nothing. cpuid is not asked: under a hypervisor it
 * has been seen to add up every cache of the host. */
uint64_t shmt_copy_cache_nbytes(void);

/* False, and `plan` untouched, while none is set. */
bool shmt_copy_get_plan(shmt_copy_plan *plan);

/* NULL forgets the plan. A copy that runs meanwhile follows the old plan or the new one. */
void shmt_copy_set_plan(const shmt_copy_plan *plan);

/* What the plan says; libc on one thread where there is none. */
shmt_copy_choice shmt_copy_choose(size_t nbytes, uint64_t footprint_nbytes);

/* Measures this machine and fills `plan` without setting it. False where 8 MiB of scratch memory cannot be had.
 *
 * Takes 50 to 100 ms of the calling thread, part of it for the first touch of the scratch memory. The kernels run in
 * turn, so a machine that slows down slows all of them, for at least 3 rounds. Chosen is the first candidate within
 * 3 % of the fastest, in the order libc, non-temporal, then the same with more threads: a kernel that is not libc must
 * earn its place, and so must every thread. */
bool shmt_copy_calibrate(shmt_copy_plan *plan);

/* What is timed. Both areas must be faulted in, and hold bytes like a payload's: on AMD's Zen 4 non-temporal stores of
 * zeros go half as fast again as those of anything else. */
typedef struct shmt_copy_trial {
    void *dst;
    const void *src;
    size_t area_nbytes;       /* of each area: the copies of all kernels go through it in turn and begin again */
    size_t nbytes;            /* of one copy, at most area_nbytes */
    unsigned settling_copies; /* before each sample, not timed: the cache becomes what this kernel makes of it */
    unsigned copies_a_sample; /* timed as one burst, with a sleeping pool at its beginning */
    unsigned repeats;         /* samples of each kernel */
    bool evict;               /* before each copy its bytes leave every cache; each copy is then timed by itself */
} shmt_copy_trial;

/* Times `count` choices side by side: repeat by repeat one sample of each, beginning with another one each time.
 * ns[repeat * count + i] becomes what one copy by choices[i] took, read from CLOCK_MONOTONIC. The first sample of a
 * choice may include starting threads: use medians. */
void shmt_copy_time(const shmt_copy_trial *trial, const shmt_copy_choice *choices, size_t count, double *ns);

#endif
