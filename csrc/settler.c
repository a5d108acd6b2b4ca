/* settler.c - one thread an attachment, started with its first ticket: settles what must end later.
 *
 * A process that sends a handle and then sleeps must still end its lease when the reader has opened it, or
 * died. While tickets are open the thread looks every 50 ms, and at once when its row's bell is rung (a
 * writer without room, an acknowledgement while one waits). It never touches Python. */
#define _GNU_SOURCE
#include "kill_points.h"
#include "threads.h"
#include "tickets.h"
#include "wait.h"

#define IDLE_SLICE_NS 1000000000ll

static void ring_own_bell(shmt_attachment *attachment) {
    _Atomic uint32_t *bell = &attachment->rows[attachment->index].bell;
    atomic_fetch_add_explicit(bell, 1, memory_order_release);
    SHMT_KILL_POINT("bell.raised");
    shmt_wake(bell);
}

static void *settle_until_stopped(void *context) {
    shmt_attachment *attachment = context;
    _Atomic uint32_t *bell = &attachment->rows[attachment->index].bell;
    bool leaves = false;
    pthread_mutex_lock(&attachment->mutex);
    while (!attachment->settler_stops) {
        uint32_t seen = atomic_load_explicit(bell, memory_order_acquire);
        uint32_t open = shmt_settle(attachment, UINT32_MAX, true);
        if (open == 0 && attachment->users == 0) {
            leaves = true;
            break;
        }
        attachment->settler_idle = open == 0;
        pthread_mutex_unlock(&attachment->mutex);
        shmt_wait(bell, seen, open ? SHMT_SLICE_NS : IDLE_SLICE_NS);
        pthread_mutex_lock(&attachment->mutex);
    }
    pthread_mutex_unlock(&attachment->mutex);
    if (leaves) shmt_leave(attachment);
    return NULL;
}

void shmt_settler_start(shmt_attachment *attachment) {
    if (attachment->settler_runs) {
        if (attachment->settler_idle) {
            attachment->settler_idle = false;
            ring_own_bell(attachment);
        }
        return;
    }
    attachment->settler_runs = shmt_thread_start(&attachment->settler, NULL, settle_until_stopped, attachment) == 0;
}

bool shmt_settler_retire(shmt_attachment *attachment) {
    bool runs = attachment->settler_runs;
    bool done = shmt_settle(attachment, UINT32_MAX, true) == 0;
    pthread_t settler = attachment->settler;
    if (runs) {
        if (done)
            attachment->settler_stops = true;
        else
            pthread_detach(settler);
        ring_own_bell(attachment);
    }
    pthread_mutex_unlock(&attachment->mutex);
    if (runs && done) pthread_join(settler, NULL);
    return done || !runs;
}
