#define _GNU_SOURCE
#include "copy.h"

#include <sched.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#include "copy_kernels.h"
#include "copy_pool.h"
#include "kill_points.h"

/* The plan, in words that are each complete: a choice is kernel << 8 | threads, and zero is libc on one thread. Setting
 * it while others copy needs no lock. */
static _Atomic uint64_t warm_limit_nbytes;
static _Atomic uint16_t warm_choices[SHMT_COPY_CLASSES];
static _Atomic uint16_t cold_choices[SHMT_COPY_CLASSES];
static _Atomic bool planned;

static uint16_t pack(shmt_copy_choice choice) { return (uint16_t)(choice.kernel << 8 | choice.threads); }

static shmt_copy_choice unpack(uint16_t word) {
    return (shmt_copy_choice){.kernel = (uint8_t)(word >> 8), .threads = (uint8_t)word};
}

bool shmt_copy_get_plan(shmt_copy_plan *plan) {
    if (!atomic_load(&planned)) return false;
    plan->warm_limit_nbytes = atomic_load(&warm_limit_nbytes);
    for (int i = 0; i < SHMT_COPY_CLASSES; i++) {
        plan->warm[i] = unpack(atomic_load(&warm_choices[i]));
        plan->cold[i] = unpack(atomic_load(&cold_choices[i]));
    }
    return true;
}

void shmt_copy_set_plan(const shmt_copy_plan *plan) {
    static const shmt_copy_plan none;
    const shmt_copy_plan *next = plan ? plan : &none;
    atomic_store(&warm_limit_nbytes, next->warm_limit_nbytes);
    for (int i = 0; i < SHMT_COPY_CLASSES; i++) {
        atomic_store(&warm_choices[i], pack(next->warm[i]));
        atomic_store(&cold_choices[i], pack(next->cold[i]));
    }
    atomic_store(&planned, plan != NULL);
}

shmt_copy_choice shmt_copy_choose(size_t nbytes, uint64_t footprint_nbytes) {
    if (nbytes < SHMT_COPY_PLANNED_NBYTES) return (shmt_copy_choice){SHMT_COPY_LIBC, 1};
    bool warm = footprint_nbytes <= atomic_load_explicit(&warm_limit_nbytes, memory_order_relaxed);
    unsigned class = 0;
    while (class < SHMT_COPY_CLASSES - 1 && nbytes >= SHMT_COPY_PLANNED_NBYTES << 2 * (class + 1)) class++;
    shmt_copy_choice choice =
        unpack(atomic_load_explicit(&(warm ? warm_choices : cold_choices)[class], memory_order_relaxed));
    size_t most = nbytes / SHMT_COPY_THREAD_NBYTES;
    if (choice.threads > most) choice.threads = (uint8_t)most;
    if (!choice.threads) choice.threads = 1;
    return choice;
}

void shmt_copy(void *dst, const void *src, size_t nbytes, uint64_t footprint_nbytes) {
    shmt_copy_with(shmt_copy_choose(nbytes, footprint_nbytes), dst, src, nbytes);
}

void shmt_copy_with(shmt_copy_choice choice, void *dst, const void *src, size_t nbytes) {
    shmt_copy_function kernel = shmt_copy_kernel_function(choice.kernel);
    if (!kernel) kernel = shmt_copy_kernel_function(SHMT_COPY_LIBC);
    SHMT_KILL_POINT("copy.begun");
    if (choice.threads > 1)
        shmt_copy_pool_run(kernel, choice.threads, dst, src, nbytes);
    else
        kernel(dst, src, nbytes);
    SHMT_KILL_POINT("copy.ended");
}

static unsigned cpu_count(void) {
    cpu_set_t cpus[8]; /* 8192 of them: the kernel refuses a set that is smaller than its own */
    memset(cpus, 0, sizeof cpus);
    bool known = sched_getaffinity(0, sizeof cpus, cpus) == 0;
    long count = known ? CPU_COUNT_S(sizeof cpus, cpus) : sysconf(_SC_NPROCESSORS_ONLN);
    return count < 1 ? 1 : (unsigned)count;
}

unsigned shmt_copy_threads_limit(void) {
    unsigned count = cpu_count();
    return count < SHMT_COPY_THREADS_MAX ? count : SHMT_COPY_THREADS_MAX;
}

unsigned shmt_copy_threads_planned(void) {
    unsigned half = cpu_count() / 2;
    if (half < 1) return 1;
    return half < SHMT_COPY_THREADS_MAX ? half : SHMT_COPY_THREADS_MAX;
}
