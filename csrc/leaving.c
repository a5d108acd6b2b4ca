/* leaving.c - the ends of an attachment: closed by the application, dropped by its last user, left behind by a
 * process that ends, forgotten by a forked child. */
#include <pthread.h>
#include <stdlib.h>

#include "attachment.h"
#include "kill_points.h"
#include "tickets.h"

static pthread_mutex_t list_guard = PTHREAD_MUTEX_INITIALIZER;
static shmt_attachment *list;

static void before_fork(void) { pthread_mutex_lock(&list_guard); }
static void after_fork_in_parent(void) { pthread_mutex_unlock(&list_guard); }

/* Mappings are not inherited, descriptors are: one that a child kept would keep a ring's memory alive, and the
 * socket of a ring whose writer is dead would go on listening. */
static void forget_in_child(void) {
    pthread_mutex_init(&list_guard, NULL);
    for (shmt_attachment *each = list; each; each = each->next) {
        shmt_file_close(&each->file);
        if (each->serving) shmt_serving_forget(each->serving);
    }
    list = NULL;
}

/* Prepare handlers run last-registered first, so list_guard is taken before the fork guard of locks.c, as in
 * shmt_leave_all(). */
__attribute__((constructor(SHMT_AFTER_FORK_GUARD))) static void watch(void) {
    pthread_atfork(before_fork, after_fork_in_parent, forget_in_child);
    atexit(shmt_leave_all);
}

void shmt_list_add(shmt_attachment *attachment) {
    pthread_mutex_lock(&list_guard);
    attachment->next = list;
    list = attachment;
    pthread_mutex_unlock(&list_guard);
}

bool shmt_is_held_elsewhere(const shmt_attachment *attachment, uintptr_t address, uint64_t nbytes) {
    bool held = false;
    pthread_mutex_lock(&list_guard);
    for (shmt_attachment *each = list; each && !held; each = each->next) {
        if (each == attachment || each->closed) continue;
        pthread_mutex_lock(&each->mutex);
        held = shmt_span_find(each, address, nbytes) != NULL;
        pthread_mutex_unlock(&each->mutex);
    }
    pthread_mutex_unlock(&list_guard);
    return held;
}

static void list_remove(shmt_attachment *attachment) {
    pthread_mutex_lock(&list_guard);
    for (shmt_attachment **at = &list; *at; at = &(*at)->next)
        if (*at == attachment) {
            *at = attachment->next;
            break;
        }
    pthread_mutex_unlock(&list_guard);
}

void shmt_destroy(shmt_attachment *attachment) {
    shmt_serving_destroy(attachment->serving);
    for (uint32_t i = 0; i < SHMT_SEGMENTS; i++) shmt_unmap(&attachment->segments[i]);
    shmt_unmap(&attachment->control);
    shmt_lock_release(&attachment->lock);
    shmt_file_close(&attachment->file);
    shmt_extents_destroy(&attachment->extents);
    free(attachment->locals);
    free(attachment->spans);
    free(attachment->held);
    free(attachment->live);
    free(attachment->free_entries);
    free(attachment->defer_context);
    pthread_mutex_destroy(&attachment->mutex);
    free(attachment);
}

void shmt_close(shmt_attachment *attachment) {
    if (attachment->fork_epoch != shmt_fork_epoch()) return;
    pthread_mutex_lock(&attachment->mutex);
    attachment->closed = true;
    if (!attachment->left) {
        shmt_row *row = &attachment->rows[attachment->index];
        atomic_store_explicit(&row->id_high, 0, memory_order_release);
        SHMT_KILL_POINT("close.id");
        atomic_fetch_add_explicit(&row->epoch, 1, memory_order_seq_cst);
        SHMT_KILL_POINT("close.epoch");
    }
    pthread_mutex_unlock(&attachment->mutex);
    shmt_drop(attachment);
}

void shmt_drop(shmt_attachment *attachment) {
    if (attachment->fork_epoch != shmt_fork_epoch()) return;
    pthread_mutex_lock(&attachment->mutex);
    if (--attachment->users) {
        pthread_mutex_unlock(&attachment->mutex);
        return;
    }
    attachment->closed = true;
    if (shmt_settler_retire(attachment)) shmt_leave(attachment);
}

/* Our lock is given up. An anonymous ring has one name, its writer's socket. */
static void remove_names(shmt_attachment *attachment) {
    if (attachment->serving) shmt_serving_unlink(attachment->serving);
    if (!shmt_is_anonymous(attachment) && shmt_names_unlink_leaving(&attachment->file, attachment->prefix) == SHMT_BUSY)
        shmt_names_remember(attachment->prefix);
}

void shmt_leave(shmt_attachment *attachment) {
    list_remove(attachment);
    if (!attachment->left) {
        shmt_lock_release(&attachment->lock);
        SHMT_KILL_POINT("leave.unlocked");
        remove_names(attachment);
    }
    shmt_destroy(attachment);
}

void shmt_abandon(shmt_attachment *attachment) {
    pthread_mutex_lock(&attachment->mutex);
    attachment->left = attachment->closed = true;
    shmt_lock_release(&attachment->lock);
    if (attachment->serving) shmt_serving_stop(attachment->serving);
    pthread_mutex_unlock(&attachment->mutex);
}

/* Without our lock a writer may reuse what our tensors show; a thread that outlives Python could still read
 * them. Then the kernel gives up the lock, and the living writer removes the names. */
static bool may_be_overwritten(shmt_attachment *attachment) {
    pthread_mutex_lock(&attachment->mutex);
    bool holds = attachment->spans_length || attachment->open_length;
    pthread_mutex_unlock(&attachment->mutex);
    return holds && attachment->index != SHMT_WRITER && shmt_lock_is_held(&attachment->file, SHMT_WRITER);
}

void shmt_leave_all(void) {
    pthread_mutex_lock(&list_guard);
    for (shmt_attachment *each = list; each; each = each->next) {
        if (each->fork_epoch != shmt_fork_epoch() || each->left || may_be_overwritten(each)) continue;
        shmt_abandon(each);
        remove_names(each);
    }
    shmt_names_try_again();
    pthread_mutex_unlock(&list_guard);
}
