#include "cuda.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#define DEVICES_MOST 64
#define REGISTER_PORTABLE 0x01u
#define REGISTER_READ_ONLY 0x08u
#define EVENT_DISABLE_TIMING 0x02u
#define CAPTURE_MODE_RELAXED 2
#define NOT_READY 600
#define CAPTURE_FIRST 900 /* CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED */
#define CAPTURE_LAST 908  /* CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD */

static struct {
    int (*device_count)(int *);
    int (*device_get)(int *, int);
    int (*state)(int, unsigned *, int *);
    int (*retain)(void **, int);
    int (*push)(void *);
    int (*pop)(void **);
    int (*host_register)(void *, size_t, unsigned);
    int (*host_unregister)(void *);
    int (*event_create)(void **, unsigned);
    int (*event_query)(void *);
    int (*context_record)(void *, void *);
    int (*capture_mode)(int *);
} driver;

static const shmt_cuda_function needed[] = {
    {"cuDeviceGetCount", &driver.device_count},
    {"cuDeviceGet", &driver.device_get},
    {"cuDevicePrimaryCtxGetState", &driver.state},
    {"cuDevicePrimaryCtxRetain", &driver.retain},
    {"cuCtxPushCurrent_v2", &driver.push},
    {"cuCtxPopCurrent_v2", &driver.pop},
    {"cuMemHostRegister_v2", &driver.host_register},
    {"cuMemHostUnregister", &driver.host_unregister},
    {"cuEventCreate", &driver.event_create},
    {"cuEventQuery", &driver.event_query},
    {"cuCtxRecordEvent", &driver.context_record},
    {"cuThreadExchangeStreamCaptureMode", &driver.capture_mode},
};

/* A context that the application has made, and our event in it. */
typedef struct device {
    void *_Atomic context;
    void *event;
    bool pending;
} device;

static device devices[DEVICES_MOST];
static pthread_mutex_t guard = PTHREAD_MUTEX_INITIALIZER; /* of the look for contexts */
static _Atomic bool loaded;
static _Atomic uint64_t registered_nbytes;

const char *shmt_cuda_find(const char *path, const shmt_cuda_function *functions, size_t length) {
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL); /* never closed: a process has one driver */
    if (!library) return path;
    for (size_t i = 0; i < length; i++) {
        void *found = dlsym(library, functions[i].name);
        if (!found) return functions[i].name;
        memcpy(functions[i].function, &found, sizeof found);
    }
    return NULL;
}

const char *shmt_cuda_load(const char *path) {
    if (atomic_load_explicit(&loaded, memory_order_acquire)) return NULL;
    const char *missing = shmt_cuda_find(path, needed, sizeof needed / sizeof *needed);
    if (!missing) atomic_store_explicit(&loaded, true, memory_order_release);
    return missing;
}

int shmt_cuda_length(void) {
    int length = 0;
    if (!atomic_load_explicit(&loaded, memory_order_acquire) || driver.device_count(&length) != 0) return 0;
    return length < DEVICES_MOST ? length : DEVICES_MOST;
}

/* The context of `ordinal`, if the application has made it. Ours to refer to from then on: kept until the process ends
 * or resets the device. */
static void *context_of(int ordinal) {
    device *found = &devices[ordinal];
    void *context = atomic_load_explicit(&found->context, memory_order_acquire);
    if (context) return context;
    int handle, active = 0;
    unsigned how;
    pthread_mutex_lock(&guard);
    if (!(context = found->context) && driver.device_get(&handle, ordinal) == 0 &&
        driver.state(handle, &how, &active) == 0 && active && driver.retain(&context, handle) == 0)
        atomic_store_explicit(&found->context, context, memory_order_release);
    pthread_mutex_unlock(&guard);
    return context;
}

static void *any_context(void) {
    void *context = NULL;
    for (int i = 0, length = shmt_cuda_length(); i < length && !context; i++) context = context_of(i);
    return context;
}

/* One call with `context` current, which has nothing to do with graphs that other threads capture meanwhile. */
static bool enter(void *context, int *mode) {
    if (!context || driver.push(context) != 0) return false;
    *mode = CAPTURE_MODE_RELAXED;
    driver.capture_mode(mode);
    return true;
}

static void leave(int mode) {
    void *context;
    driver.capture_mode(&mode);
    driver.pop(&context);
}

bool shmt_cuda_enter(int ordinal, int *mode) {
    return ordinal >= 0 && ordinal < shmt_cuda_length() && enter(context_of(ordinal), mode);
}

void shmt_cuda_leave(int mode) { leave(mode); }

int shmt_cuda_register(void *base, size_t nbytes, bool writable) {
    int mode;
    if (!enter(any_context(), &mode)) return SHMT_CUDA_ABSENT;
    int code = driver.host_register(base, nbytes, REGISTER_PORTABLE | (writable ? 0 : REGISTER_READ_ONLY));
    leave(mode);
    if (code == 0) atomic_fetch_add_explicit(&registered_nbytes, nbytes, memory_order_relaxed);
    return code;
}

void shmt_cuda_unregister(void *base, size_t nbytes) {
    int mode;
    atomic_fetch_sub_explicit(&registered_nbytes, nbytes, memory_order_relaxed);
    if (!enter(any_context(), &mode)) return;
    driver.host_unregister(base);
    leave(mode);
}

uint64_t shmt_cuda_registered_nbytes(void) { return atomic_load_explicit(&registered_nbytes, memory_order_relaxed); }

static int record_in(device *found, void *context) {
    int mode;
    if (!found->event) {
        if (!enter(context, &mode)) return SHMT_CUDA_ABSENT;
        int code = driver.event_create(&found->event, EVENT_DISABLE_TIMING);
        leave(mode);
        if (code != 0) return code;
    }
    return driver.context_record(context, found->event);
}

bool shmt_cuda_record(void) {
    for (int i = 0, length = shmt_cuda_length(); i < length; i++) {
        devices[i].pending = false;
        /* Once more where it fails: a device that was reset has another context since. */
        for (int attempt = 0; attempt < 2 && !devices[i].pending; attempt++) {
            void *context = context_of(i);
            if (!context) break;
            int code = record_in(&devices[i], context);
            if (code >= CAPTURE_FIRST && code <= CAPTURE_LAST) return false;
            devices[i].pending = code == 0;
            if (code != 0) {
                devices[i].event = NULL;
                atomic_store_explicit(&devices[i].context, NULL, memory_order_release);
            }
        }
    }
    return true;
}

bool shmt_cuda_passed(void) {
    bool passed = true;
    for (int i = 0; i < DEVICES_MOST; i++)
        if (devices[i].pending) {
            devices[i].pending = driver.event_query(devices[i].event) == NOT_READY;
            passed = passed && !devices[i].pending;
        }
    return passed;
}

void shmt_cuda_own_thread(void) {
    int mode = CAPTURE_MODE_RELAXED;
    driver.capture_mode(&mode);
}

void shmt_cuda_forget(void) {
    registered_nbytes = 0;
    pthread_mutex_init(&guard, NULL);
    for (int i = 0; i < DEVICES_MOST; i++) devices[i] = (device){0};
}
