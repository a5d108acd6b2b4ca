#include "copy.h"
#include "copy_cache.h"
#include "copy_pool.h"
#include "wait.h"

/* Three times as long as the pool's threads look out for work. */
#define IDLE_NS (3 * SHMT_COPY_SPIN_NS)

/* A burst finds the pool asleep, as the first tensor of a message does. This thread does not sleep: a caller's core is
 * awake. */
static void let_the_pool_sleep(void) {
    int64_t until = shmt_now_ns() + IDLE_NS;
    while (shmt_now_ns() < until) shmt_copy_relax();
}

/* Offset of the next copy. */
static size_t advance(const shmt_copy_trial *trial, size_t *next) {
    if (*next + trial->nbytes > trial->area_nbytes) *next = 0;
    size_t offset = *next;
    *next += trial->nbytes;
    return offset;
}

static void copy_burst(const shmt_copy_trial *trial, shmt_copy_choice choice, unsigned copies, size_t *next) {
    for (unsigned copy = 0; copy < copies; copy++) {
        size_t offset = advance(trial, next);
        shmt_copy_with(choice, (char *)trial->dst + offset, (const char *)trial->src + offset, trial->nbytes);
    }
}

static int64_t time_burst(const shmt_copy_trial *trial, shmt_copy_choice choice, size_t *next) {
    copy_burst(trial, choice, trial->settling_copies, next);
    let_the_pool_sleep();
    int64_t start = shmt_now_ns();
    copy_burst(trial, choice, trial->copies_a_sample, next);
    return shmt_now_ns() - start;
}

static int64_t time_evicted(const shmt_copy_trial *trial, shmt_copy_choice choice, size_t *next) {
    int64_t sum = 0;
    for (unsigned copy = 0; copy < trial->copies_a_sample; copy++) {
        size_t offset = advance(trial, next);
        shmt_copy_evict((const char *)trial->src + offset, trial->nbytes);
        shmt_copy_evict((const char *)trial->dst + offset, trial->nbytes);
        let_the_pool_sleep();
        int64_t start = shmt_now_ns();
        shmt_copy_with(choice, (char *)trial->dst + offset, (const char *)trial->src + offset, trial->nbytes);
        sum += shmt_now_ns() - start;
    }
    return sum;
}

void shmt_copy_time(const shmt_copy_trial *trial, const shmt_copy_choice *choices, size_t count, double *ns) {
    size_t next = 0;
    for (size_t repeat = 0; repeat < trial->repeats; repeat++)
        for (size_t turn = 0; turn < count; turn++) {
            size_t i = (repeat + turn) % count;
            int64_t sum = (trial->evict ? time_evicted : time_burst)(trial, choices[i], &next);
            ns[repeat * count + i] = (double)sum / trial->copies_a_sample;
        }
}
