#include "device_memory.h"

#include <stdatomic.h>
#include <string.h>

#include "cuda.h"

#define LAZY_PEER_ACCESS 1u

typedef struct exported {
    uint8_t bytes[SHMT_DEVICE_HANDLE_NBYTES];
} exported; /* CUipcMemHandle, passed by value */

static struct {
    int (*device_get)(int *, int);
    int (*uuid)(uint8_t *, int);
    int (*allocate)(uint64_t *, size_t);
    int (*free)(uint64_t);
    int (*range)(uint64_t *, size_t *, uint64_t);
    int (*export_memory)(exported *, uint64_t);
    int (*import_memory)(uint64_t *, exported, unsigned);
    int (*release)(uint64_t);
    int (*synchronize)(void);
    int (*error_name)(int, const char **);
} driver;

static const shmt_cuda_function needed[] = {
    {"cuDeviceGet", &driver.device_get},
    {"cuDeviceGetUuid", &driver.uuid},
    {"cuMemAlloc_v2", &driver.allocate},
    {"cuMemFree_v2", &driver.free},
    {"cuMemGetAddressRange_v2", &driver.range},
    {"cuIpcGetMemHandle", &driver.export_memory},
    {"cuIpcOpenMemHandle_v2", &driver.import_memory},
    {"cuIpcCloseMemHandle", &driver.release},
    {"cuCtxSynchronize", &driver.synchronize},
    {"cuGetErrorName", &driver.error_name},
};

static _Atomic bool loaded;

const char *shmt_device_load(const char *path) {
    if (atomic_load_explicit(&loaded, memory_order_acquire)) return NULL;
    const char *missing = shmt_cuda_find(path, needed, sizeof needed / sizeof *needed);
    if (!missing) atomic_store_explicit(&loaded, true, memory_order_release);
    return missing;
}

int shmt_device_uuid(int ordinal, uint8_t uuid[SHMT_DEVICE_UUID_NBYTES]) {
    int device;
    int code = driver.device_get(&device, ordinal);
    return code == 0 ? driver.uuid(uuid, device) : code;
}

int shmt_device_allocate(int ordinal, size_t nbytes, uint64_t *address) {
    int mode;
    if (!shmt_cuda_enter(ordinal, &mode)) return SHMT_CUDA_ABSENT;
    int code = driver.allocate(address, nbytes);
    shmt_cuda_leave(mode);
    return code;
}

int shmt_device_export(int ordinal, uint64_t address, uint8_t handle[SHMT_DEVICE_HANDLE_NBYTES]) {
    int mode;
    exported made = {{0}};
    if (!shmt_cuda_enter(ordinal, &mode)) return SHMT_CUDA_ABSENT;
    int code = driver.export_memory(&made, address);
    shmt_cuda_leave(mode);
    memcpy(handle, made.bytes, sizeof made.bytes);
    return code;
}

/* Nothing on the device reads or writes the memory any more when `function` takes it away. */
static int end(int ordinal, uint64_t address, int (*function)(uint64_t)) {
    int mode;
    if (!shmt_cuda_enter(ordinal, &mode)) return SHMT_CUDA_ABSENT;
    driver.synchronize();
    int code = function(address);
    shmt_cuda_leave(mode);
    return code;
}

int shmt_device_free(int ordinal, uint64_t address) { return end(ordinal, address, driver.free); }

int shmt_device_release(int ordinal, uint64_t address) { return end(ordinal, address, driver.release); }

int shmt_device_import(int ordinal, const uint8_t handle[SHMT_DEVICE_HANDLE_NBYTES], uint64_t *address, uint64_t *nbytes) {
    int mode;
    exported given;
    uint64_t base;
    size_t range = 0;
    memcpy(given.bytes, handle, sizeof given.bytes);
    if (!shmt_cuda_enter(ordinal, &mode)) return SHMT_CUDA_ABSENT;
    int code = driver.import_memory(address, given, LAZY_PEER_ACCESS);
    if (code == 0 && (code = driver.range(&base, &range, *address)) != 0) driver.release(*address);
    shmt_cuda_leave(mode);
    *nbytes = range;
    return code;
}

const char *shmt_device_error(int code) {
    const char *name = NULL;
    if (code == SHMT_CUDA_ABSENT) return "no context on this device";
    if (!atomic_load_explicit(&loaded, memory_order_acquire) || driver.error_name(code, &name) != 0 || !name) return "unknown";
    return name;
}
