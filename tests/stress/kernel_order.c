/* kernel_order.c - tells ThreadSanitizer what it cannot see: the kernel orders who gives up a lock byte before whoever
 * gets it ("Locks" in docs/memory-model.md). The linker's --wrap puts these in the place of the functions in
 * csrc/locks.c.
 *
 * One order for all bytes, where the kernel has one for each: csrc/locks.c takes every byte under one mutex of the
 * process anyway, so nothing more is hidden than that mutex hides. */
#include <sanitizer/tsan_interface.h>

#include "locks.h"

shmt_status __real_shmt_lock_hold(const shmt_file *file, uint32_t index, shmt_lock *lock);
shmt_status __wrap_shmt_lock_hold(const shmt_file *file, uint32_t index, shmt_lock *lock);
void __real_shmt_lock_release(shmt_lock *lock);
void __wrap_shmt_lock_release(shmt_lock *lock);
shmt_status __real_shmt_lock_during(const shmt_file *file, uint32_t first, uint32_t count, void (*work)(void *),
                                    void *context);
shmt_status __wrap_shmt_lock_during(const shmt_file *file, uint32_t first, uint32_t count, void (*work)(void *),
                                    void *context);

static char bytes;

shmt_status __wrap_shmt_lock_hold(const shmt_file *file, uint32_t index, shmt_lock *lock) {
    shmt_status status = __real_shmt_lock_hold(file, index, lock);
    if (status == SHMT_OK) __tsan_acquire(&bytes);
    return status;
}

void __wrap_shmt_lock_release(shmt_lock *lock) {
    __tsan_release(&bytes);
    __real_shmt_lock_release(lock);
}

typedef struct ordered_work {
    void (*work)(void *);
    void *context;
} ordered_work;

static void work_in_order(void *context) {
    ordered_work *ordered = context;
    __tsan_acquire(&bytes);
    ordered->work(ordered->context);
    __tsan_release(&bytes);
}

shmt_status __wrap_shmt_lock_during(const shmt_file *file, uint32_t first, uint32_t count, void (*work)(void *),
                                    void *context) {
    ordered_work ordered = {work, context};
    return __real_shmt_lock_during(file, first, count, work_in_order, &ordered);
}
