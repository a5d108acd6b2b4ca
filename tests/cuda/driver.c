/* driver.c - a CUDA driver of one device that does what a test tells it: made where there is no GPU, to see that the
 * keeper asks the right questions in the right order. What CUDA itself does is for test_device.py.
 *
 * `tell` has the test's orders, and counts what was asked. */
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#define NOT_READY 600
#define CAPTURE_UNSUPPORTED 900

struct {
    _Atomic int32_t active;       /* the application has made the context */
    _Atomic int32_t register_code, record_code, query_code;
    _Atomic int32_t enqueued, done; /* counters of work: an event has passed once `done` has reached it */
    _Atomic int32_t registered, unregistered, records, contexts, how, created_without_context;
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
