/* driver.c - a CUDA driver of one device that does what a test tells it: made where there is no GPU, to see that the
 * keeper asks the right questions in the right order, and that device memory is shared and given back by the rules. What
 * CUDA itself does is for test_device.py. Its device's memory is the host's, so that other processes can open it.
 *
 * `tell` has the test's orders, and counts what was asked. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define NOT_READY 600
#define CAPTURE_UNSUPPORTED 900

struct {
    _Atomic int32_t active;       /* the application has made the context */
    _Atomic int32_t register_code, record_code, query_code;
    _Atomic int32_t enqueued, done; /* counters of work: an event has passed once `done` has reached it */
    _Atomic int32_t registered, unregistered, records, contexts, how, created_without_context;
    _Atomic int32_t allocate_code, export_code, import_code, uuid; /* the device's, its first byte */
    _Atomic int32_t allocated, opened; /* ranges of memory at the moment */
} tell;

static _Thread_local int depth;
static int context, event_made;
static _Atomic int32_t event;

int cuDeviceGetCount(int *count) { return *count = 1, 0; }
int cuDeviceGet(int *device, int ordinal) { return *device = ordinal, 0; }
int cuDevicePrimaryCtxGetState(int device, unsigned *how, int *active) {
    (void)device;
    return *how = 0, *active = tell.active, 0;
}
int cuDevicePrimaryCtxRetain(void **made, int device) {
    (void)device;
    if (!tell.active) tell.created_without_context++;
    tell.contexts++;
    return *made = &context, 0;
}
int cuCtxPushCurrent_v2(void *pushed) {
    depth++;
    return pushed == &context ? 0 : 201;
}
int cuCtxPopCurrent_v2(void **popped) {
    depth--;
    return *popped = &context, 0;
}
int cuMemHostRegister_v2(void *base, size_t nbytes, unsigned how) {
    (void)base, (void)nbytes;
    if (!depth) return 201;
    if (tell.register_code == 0) tell.registered++;
    tell.how = (int32_t)how;
    return tell.register_code;
}
int cuMemHostUnregister(void *base) {
    volatile uint8_t *first = base;
    (void)*first; /* still mapped */
    tell.unregistered++;
    return 0;
}
int cuEventCreate(void **made, unsigned how) {
    (void)how;
    event_made = 1;
    return *made = &event, depth ? 0 : 201;
}
int cuEventQuery(void *asked) {
    if (tell.query_code) return tell.query_code;
    return asked == &event && tell.done >= event ? 0 : NOT_READY;
}
int cuCtxRecordEvent(void *in, void *recorded) {
    if (in != &context || recorded != &event || !event_made) abort();
    tell.records++;
    if (tell.record_code) return tell.record_code;
    event = tell.enqueued;
    return 0;
}
int cuThreadExchangeStreamCaptureMode(int *mode) {
    static _Thread_local int own;
    int before = own;
    return own = *mode, *mode = before, 0;
}

/* A range of the device's memory: allocated here (fd), or opened (fd -1). */
static struct {
    uint8_t *base;
    size_t nbytes;
    int fd;
} ranges[16];

static int range_of(uint64_t address) {
    for (int i = 0; i < 16; i++)
        if (ranges[i].base && ranges[i].base == (uint8_t *)address) return i;
    abort();
}

static int map(int fd, int kept_fd, size_t nbytes, uint64_t *address) {
    int i = 0;
    while (ranges[i].base) i++;
    ranges[i].base = mmap(NULL, nbytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    ranges[i].nbytes = nbytes;
    ranges[i].fd = kept_fd;
    return *address = (uint64_t)ranges[i].base, 0;
}

static void unmap(int i) {
    munmap(ranges[i].base, ranges[i].nbytes);
    ranges[i].base = NULL;
}

int cuDeviceGetUuid(uint8_t *uuid, int device) {
    (void)device;
    memset(uuid, 0, 16);
    return uuid[0] = (uint8_t)tell.uuid, 0;
}
int cuMemAlloc_v2(uint64_t *address, size_t nbytes) {
    if (!depth) return 201;
    if (tell.allocate_code) return tell.allocate_code;
    int fd = memfd_create("device", MFD_CLOEXEC);
    if (ftruncate(fd, (off_t)nbytes) != 0) abort();
    tell.allocated++;
    return map(fd, fd, nbytes, address);
}
int cuMemFree_v2(uint64_t address) {
    int i = range_of(address);
    close(ranges[i].fd);
    unmap(i);
    tell.allocated--;
    return depth ? 0 : 201;
}
int cuMemGetAddressRange_v2(uint64_t *base, size_t *nbytes, uint64_t address) {
    return *base = address, *nbytes = ranges[range_of(address)].nbytes, 0;
}

typedef struct exported {
    char path[64];
} exported;

int cuIpcGetMemHandle(exported *made, uint64_t address) {
    if (tell.export_code) return tell.export_code;
    snprintf(made->path, sizeof made->path, "/proc/%d/fd/%d", getpid(), ranges[range_of(address)].fd);
    return 0;
}
int cuIpcOpenMemHandle_v2(uint64_t *address, exported given, unsigned how) {
    struct stat facts;
    if (!depth || how != 1) return 201;
    if (tell.import_code) return tell.import_code;
    int fd = open(given.path, O_RDWR | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &facts) != 0) return 1;
    tell.opened++;
    map(fd, -1, (size_t)facts.st_size, address);
    return close(fd), 0;
}
int cuIpcCloseMemHandle(uint64_t address) {
    unmap(range_of(address));
    tell.opened--;
    return depth ? 0 : 201;
}
int cuCtxSynchronize(void) { return 0; }
int cuGetErrorName(int code, const char **name) {
    if (code == 0) return 1;
    return *name = code == 2 ? "CUDA_ERROR_OUT_OF_MEMORY" : "CUDA_ERROR_OF_THE_TEST", 0;
}
