/* writers.c - a writer's life: one ring after another, each filled until it is full, grown, shared and left. */
#include <fcntl.h>
#include <unistd.h>

#include "stress.h"

static void add_segment(stress_place *place) {
    pthread_mutex_lock(&rings[place->writer].growth);
    uint32_t number = atomic_load_explicit(&place->attachment->header->segments, memory_order_relaxed);
    if (number < SEGMENTS_MOST) {
        uint64_t nbytes = number == 1 ? LARGE_NBYTES * 2 : SEGMENT_NBYTES;
        int fd = open_segment(place->writer, place->life, number + 1, true);
        if (fd < 0 || posix_fallocate(fd, 0, (off_t)nbytes) != 0) broken("no segment");
        shmt_status status = shmt_add_segment(place->attachment, number, fd, nbytes, true);
        close(fd);
        if (status != SHMT_OK) broken("adding a segment answered %d", (int)status);
        if (number) count(GROWN, 1);
    }
    pthread_mutex_unlock(&rings[place->writer].growth);
}

/* A ring of a new name. A sweep may be quicker than our lock: then another name. */
static void create(uint32_t writer, uint64_t life, stress_chance *chance) {
    for (;; life++) {
        char prefix[SHMT_PREFIX_NBYTES];
        shmt_shape shape = {.backing = is_anonymous(writer, life) ? SHMT_BACKING_MEMFD : SHMT_BACKING_POSIX,
                            .entries = ENTRIES,
                            .capacity_nbytes = SEGMENT_NBYTES * (uint64_t)SEGMENTS_MOST + 2 * LARGE_NBYTES,
                            .segment_nbytes = SEGMENT_NBYTES};
        shmt_peer peer = {.id_high = draw(chance, UINT64_MAX) | 1, .name = "writer"};
        shmt_attachment *attachment;
        ring_prefix(prefix, writer, life);
        ring_id(shape.ring_id, writer, life);
        int fd = open_segment(writer, life, 0, true);
        if (fd < 0) broken("no control segment");
        /* Known before it is ready: who is early is told so. */
        atomic_store_explicit(&rings[writer].life, life, memory_order_relaxed);
        shmt_status status = shmt_create(fd, prefix, &shape, &peer, &attachment);
        close(fd);
        if (status == SHMT_GONE) continue;
        if (status != SHMT_OK) broken("create answered %d", (int)status);
        ends_may_come_later(attachment);
        stress_place *made = place_new(attachment, writer, life);
        add_segment(made);
        shmt_publish(attachment);
        if (is_anonymous(writer, life)) serve_ring(attachment, writer, life);
        atomic_store_explicit(&rings[writer].place, made, memory_order_release);
        count(RINGS, 1);
        return;
    }
}

static uint64_t some_nbytes(stress_chance *chance) {
    if (one_in(chance, 60)) return LARGE_NBYTES + 8 * draw(chance, 1024);
    uint64_t most = one_in(chance, 8) ? 96u << 10 : 4u << 10;
    return 8 * (draw(chance, most / 8) + 1);
}

static shmt_status allocate(stress_place *place, uint64_t nbytes, stress_chance *chance, shmt_lease *lease) {
    shmt_status status = shmt_allocate(place->attachment, nbytes, lease);
    if (status != SHMT_FULL && status != SHMT_NO_ENTRY) return status;
    count(FULL, 1);
    if (status == SHMT_FULL && one_in(chance, 4)) add_segment(place);
    count(WAITED, 1);
    return shmt_allocate_wait(place->attachment, nbytes, (int64_t)draw(chance, 4000000) + 1, lease);
}

/* One block, written and sent. False: no room for it, or no ring. */
static bool write_block(uint32_t writer, stress_chance *chance, stress_held *held) {
    stress_place *place = atomic_load_explicit(&rings[writer].place, memory_order_acquire);
    if (!place || !place_enter(place)) return false;
    uint64_t nbytes = some_nbytes(chance);
    *held = (stress_held){.place = place, .payload = draw(chance, UINT64_MAX)};
    shmt_status status = allocate(place, nbytes, chance, &held->lease);
    if (status == SHMT_OK) {
        payload_write(held->lease.address, nbytes, held->payload);
        spread(held, chance);
        count(BLOCKS, 1);
    } else if (status != SHMT_TIMEOUT) {
        broken("allocate answered %d", (int)status);
    }
    place_exit(place);
    return status == SHMT_OK;
}

/* Something that it holds is sent once more, or ended. */
static void use(stress_held *held, stress_chance *chance) {
    held_check(held);
    if (one_in(chance, 3) && place_enter(held->place)) {
        spread(held, chance);
        place_exit(held->place);
    } else {
        held_end(held);
    }
}

void *writer_thread(void *argument) {
    uint32_t number = (uint32_t)(uintptr_t)argument, writer = number / THREADS;
    bool owner = number % THREADS == 0;
    stress_chance chance = {.state = (seed << 16) + number + 1};
    uint64_t left = blocks_a_thread, life = 1, life_blocks = 0;
    stress_held held[HELD_MOST] = {0};
    deferred_begin(number);
    if (owner) create(writer, life, &chance);
    while (left) {
        stress_held *slot = &held[draw(&chance, HELD_MOST)];
        if (slot->place)
            use(slot, &chance);
        else if (write_block(writer, &chance, slot))
            left--, life_blocks++;
        else
            slot->place = NULL;
        if (one_in(&chance, 20)) deferred_finish();
        if (owner && left && life_blocks > blocks_a_thread / 4 && one_in(&chance, 8)) {
            bool dies = one_in(&chance, 2);
            stress_place *last = atomic_load_explicit(&rings[writer].place, memory_order_relaxed);
            place_end(last, dies);
            if (dies) count(WRITERS_DIED, 1);
            create(writer, last->life + 1, &chance);
            life_blocks = 0;
        }
    }
    for (uint32_t i = 0; i < HELD_MOST; i++)
        if (held[i].place) held_end(&held[i]);
    deferred_finish();
    return NULL;
}
