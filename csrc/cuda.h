/* cuda.h - the few functions of CUDA's driver that the core calls, found at run time: it is built without CUDA, and runs
 * without.
 *
 * No context is ever created: all of this is about those that the application has made, the primary ones of each
 * device, which PyTorch and the CUDA runtime use. Answers are the driver's own codes, 0 for success.
 * Source: NVIDIA's CUDA Driver API reference, chapters on contexts, memory, events and stream capture. */
#ifndef SHMT_CUDA_H
#define SHMT_CUDA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* No code of the driver: no device has a context, or the driver is not there. */
#define SHMT_CUDA_ABSENT 10000

/* Looks for the driver at `path`, "libcuda.so.1" in real life, and in it for all that is needed. NULL, or the name of
 * what is missing: the driver itself, or a function that came with a later release (cuCtxRecordEvent: 12.5). Once it
 * has succeeded it does nothing. */
const char *shmt_cuda_load(const char *path);

/* For files that call more of it: a function by name, and where its address goes. Answers as shmt_cuda_load(). */
typedef struct shmt_cuda_function {
    const char *name;
    void *function;
} shmt_cuda_function;
const char *shmt_cuda_find(const char *path, const shmt_cuda_function *functions, size_t length);

/* Devices that this process sees, with or without a context; 0 before shmt_cuda_load(). */
int shmt_cuda_length(void);

/* Makes the context of device `ordinal` current, for some calls of this thread that have nothing to do with graphs which
 * others capture meanwhile; false, and nothing to leave, if the application has not made it. After shmt_cuda_load(). */
bool shmt_cuda_enter(int ordinal, int *mode);
void shmt_cuda_leave(int mode);

/* Page-locks memory for DMA from every device; `writable` says how it is mapped. Wants a context, any. */
int shmt_cuda_register(void *base, size_t nbytes, bool writable);
void shmt_cuda_unregister(void *base, size_t nbytes);
uint64_t shmt_cuda_registered_nbytes(void);

/* What the application has enqueued up to now, on whichever stream, is done? First record, then ask until true. One
 * thread at a time, one that has called shmt_cuda_own_thread(). A device that answers with an error does not read any
 * more, and counts as done.
 *
 * shmt_cuda_record: false if a stream is being captured into a graph. Asking has then spoiled that capture, as the
 * driver's reference says, so the caller must know of captures (keeper.h) and this is only for those it does not. */
bool shmt_cuda_record(void);
bool shmt_cuda_passed(void);

/* For a thread that asks for events while others capture: its calls have nothing to do with their graphs. */
void shmt_cuda_own_thread(void);

/* In a forked child: contexts are not inherited. */
void shmt_cuda_forget(void);

#endif
