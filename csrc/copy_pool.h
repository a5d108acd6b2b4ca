/* copy_pool.h - one copy shared by several threads.
 *
 * The threads start when a copy first asks for them, live as long as the process and sleep between copies, after
 * looking out for the next one for SHMT_COPY_SPIN_NS. They take no signals and never call Python. They serve one copy
 * at a time: a second caller copies alone, so no copy waits for another. */
#ifndef SHMT_COPY_POOL_H
#define SHMT_COPY_POOL_H

#include "copy_kernels.h"

/* Spans the gap between two tensors of one message; longer would take the CPU from the reader that was just woken. */
#define SHMT_COPY_SPIN_NS 20000

/* Copies on the caller's thread and up to `threads` - 1 others, fewer where fewer can be had. */
void shmt_copy_pool_run(shmt_copy_function kernel, unsigned threads, void *dst, const void *src, size_t nbytes);

/* What a thread does between two looks at a word that another one is about to write. */
static inline void shmt_copy_relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

#endif
