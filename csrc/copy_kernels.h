/* copy_kernels.h - one thread's work. Each kernel copies `nbytes` between areas that do not overlap, of any size and
 * at any alignment, and orders its stores before all later ones of the calling thread. */
#ifndef SHMT_COPY_KERNELS_H
#define SHMT_COPY_KERNELS_H

#include "copy.h"

typedef void (*shmt_copy_function)(void *dst, const void *src, size_t nbytes);

/* NULL where the kernel is not available. */
shmt_copy_function shmt_copy_kernel_function(shmt_copy_kernel kernel);

#endif
