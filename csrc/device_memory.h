/* device_memory.h - memory of a CUDA device that other processes of this host can open, by the driver's inter-process
 * calls.
 *
 *   owner      allocate -> export: 64 bytes for whoever is to open it ................ free
 *   another    import: an address of its own over the same memory, how large it is ... release
 *
 * Here lives no lease: who may read what, and when it may be freed, is decided by those of the ring
 * (shmtransport/device_tensors.py). A device is named by its ordinal in this process; between processes by its UUID, since
 * ordinals differ where CUDA_VISIBLE_DEVICES does. Calls answer the driver's code, 0 for success, or SHMT_CUDA_ABSENT where
 * the application has made no context on that device (cuda.h). Threads: any. Fork: nothing is inherited; a child's calls
 * fail.
 * Source: NVIDIA's CUDA Driver API reference, memory management (cuIpc*), and CUDA C++ Programming Guide, interprocess
 * communication: only memory of cuMemAlloc can be exported, only to another process, and it has to be released by all
 * before it is freed. */
#ifndef SHMT_DEVICE_MEMORY_H
#define SHMT_DEVICE_MEMORY_H

#include <stddef.h>
#include <stdint.h>

#define SHMT_DEVICE_HANDLE_NBYTES 64u
#define SHMT_DEVICE_UUID_NBYTES 16u

/* As shmt_cuda_load(), for the functions of this file. */
const char *shmt_device_load(const char *path);

int shmt_device_uuid(int ordinal, uint8_t uuid[SHMT_DEVICE_UUID_NBYTES]);

int shmt_device_allocate(int ordinal, size_t nbytes, uint64_t *address);
int shmt_device_export(int ordinal, uint64_t address, uint8_t handle[SHMT_DEVICE_HANDLE_NBYTES]);
/* Waits for what the device still does with it. */
int shmt_device_free(int ordinal, uint64_t address);

/* *nbytes is what the driver says of it, whatever the handle came with. */
int shmt_device_import(int ordinal, const uint8_t handle[SHMT_DEVICE_HANDLE_NBYTES], uint64_t *address, uint64_t *nbytes);
/* Waits for what the device still does with it. */
int shmt_device_release(int ordinal, uint64_t address);

/* The driver's name of a code, CUDA_ERROR_..., for people. */
const char *shmt_device_error(int code);

#endif
