/* places.c - an attachment and who may still use it; leases, and their ends that come later. */
#include <stdlib.h>

#include "stress.h"

static _Atomic(stress_place *) places;

stress_place *place_new(shmt_attachment *attachment, uint32_t writer, uint64_t life) {
    stress_place *made = calloc(1, sizeof *made);
    if (!made) broken("no memory");
    pthread_rwlock_init(&made->guard, NULL);
    made->attachment = attachment;
    made->writer = writer;
    made->life = life;
    made->older = atomic_load_explicit(&places, memory_order_relaxed);
    while (!atomic_compare_exchange_weak_explicit(&places, &made->older, made, memory_order_relaxed,
                                                  memory_order_relaxed)) {}
    return made;
}

bool place_enter(stress_place *place) {
    pthread_rwlock_rdlock(&place->guard);
    if (!place->over) return true;
    pthread_rwlock_unlock(&place->guard);
    return false;
}

void place_exit(stress_place *place) { pthread_rwlock_unlock(&place->guard); }

bool place_end(stress_place *place, bool dies) {
    pthread_rwlock_wrlock(&place->guard);
    bool was_over = place->over;
    place->over = true;
    if (dies && !was_over) {
        place->dead = true;
        shmt_abandon(place->attachment);
    }
    pthread_rwlock_unlock(&place->guard);
    if (!was_over) shmt_close(place->attachment);
    return !was_over;
}

void after_the_dead(void (*clean)(uint32_t writer, uint64_t life)) {
    for (stress_place *each = places; each; each = each->older)
        if (each->dead) clean(each->writer, each->life);
}

void places_free(void) {
    for (stress_place *each = places, *older; each; each = older) {
        older = each->older;
        pthread_rwlock_destroy(&each->guard);
        free(each);
    }
}

void held_check(const stress_held *held) {
    pthread_rwlock_rdlock(&held->place->guard);
    if (!held->place->dead && !payload_is(held->lease.address, held->lease.nbytes, held->payload, held->offset))
        broken("wrong bytes: writer %u, life %llu, entry %u, generation %u, index %u", held->place->writer,
               (unsigned long long)held->place->life, held->lease.entry, held->lease.generation,
               held->place->attachment->index);
    pthread_rwlock_unlock(&held->place->guard);
}

void held_end(stress_held *held) {
    shmt_lease_end(held->place->attachment, held->lease.entry, held->lease.generation);
    held->place = NULL;
}

/* Ends that come later, as those of leases that wait for a GPU event do. A list of each thread: one for all would have
 * a mutex, and order threads that have nothing to do with each other. */
typedef struct deferred {
    shmt_attachment *attachment;
    uint32_t entry, generation;
    struct deferred *next;
} deferred;

static _Thread_local deferred *waiting;
static _Thread_local stress_chance defer_chance;

static bool defer(void *unused, shmt_attachment *attachment, uint32_t entry, uint32_t generation) {
    (void)unused;
    if (!one_in(&defer_chance, 8)) return false;
    deferred *made = malloc(sizeof *made);
    if (!made) return false;
    *made = (deferred){attachment, entry, generation, waiting};
    waiting = made;
    count(DEFERRED, 1);
    return true;
}

void ends_may_come_later(shmt_attachment *attachment) { attachment->defer = defer; }

void deferred_begin(uint64_t number) { defer_chance.state = seed * 2654435761u + number + 1; }

void deferred_finish(void) {
    while (waiting) {
        deferred *first = waiting;
        waiting = first->next;
        shmt_lease_finish(first->attachment, first->entry, first->generation);
        free(first);
    }
}
