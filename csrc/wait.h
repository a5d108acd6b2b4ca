/* wait.h - clocks and futexes on shared words. Every wait has a deadline and goes in slices. */
#ifndef SHMT_WAIT_H
#define SHMT_WAIT_H

#include <stdatomic.h>
#include <stdint.h>

/* Longest uninterrupted sleep: SIGKILL of the last holder of a block wakes nobody (rule 24). */
#define SHMT_SLICE_NS 50000000ll

/* CLOCK_MONOTONIC in nanoseconds; the same for all processes of a host. */
int64_t shmt_now_ns(void);

/* Sleeps until `word` is woken or differs from `seen`, at most `timeout_ns`. Spurious returns are normal:
 * the caller looks at its condition again. */
void shmt_wait(_Atomic uint32_t *word, uint32_t seen, int64_t timeout_ns);

/* Wakes every sleeper on `word`, in all processes. */
void shmt_wake(_Atomic uint32_t *word);

#endif
