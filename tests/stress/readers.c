/* readers.c - a reader's life: joins every ring, opens what comes, checks it, holds it, sends it on; reaps, closes,
 * dies. */
#include <sys/stat.h>
#include <unistd.h>

#include "stress.h"

/* Maps a segment that the writer has added since. False: its name is gone. */
static bool map_segment(stress_place *place, uint32_t number) {
    struct stat facts;
    int fd = open_segment(place->writer, place->life, number + 1, false);
    if (fd < 0) return false;
    uint64_t nbytes = atomic_load_explicit(&place->attachment->segment_nbytes[number], memory_order_relaxed);
    if (fstat(fd, &facts) != 0 || (uint64_t)facts.st_size != nbytes) broken("segment %u is not as published", number);
    shmt_status status = shmt_add_segment(place->attachment, number, fd, nbytes, false);
    close(fd);
    if (status != SHMT_OK) broken("mapping a segment answered %d", (int)status);
    count(MAPPED, 1);
    return true;
}

static void try_join(stress_reader *reader, uint32_t writer, uint64_t life, stress_chance *chance) {
    char prefix[SHMT_PREFIX_NBYTES];
    shmt_found found = {0};
    shmt_attachment *attachment;
    shmt_peer peer = {.id_low = draw(chance, UINT64_MAX), .id_high = draw(chance, UINT64_MAX) | 1, .name = "reader"};
    ring_prefix(prefix, writer, life);
    int fd = open_segment(writer, life, 0, false);
    if (fd < 0) {
        count(REFUSED_JOINS, 1);
        return;
    }
    shmt_status status = shmt_join(fd, prefix, &peer, &found, &attachment);
    close(fd);
    if (status == SHMT_OK) {
        ends_may_come_later(attachment);
        atomic_store_explicit(&reader->places[writer], place_new(attachment, writer, life), memory_order_release);
        atomic_store_explicit(&reader->id_low[writer], peer.id_low, memory_order_relaxed);
        atomic_store_explicit(&reader->id_high[writer], peer.id_high, memory_order_relaxed);
    } else if (status == SHMT_GONE || status == SHMT_NOT_READY || status == SHMT_NO_INDEX) {
        count(REFUSED_JOINS, 1);
    } else {
        broken("join answered %d", (int)status);
    }
}

/* Joins the writer's ring of today, leaving that of yesterday. */
static void follow(stress_reader *reader, uint32_t writer, stress_chance *chance) {
    uint64_t life = atomic_load_explicit(&rings[writer].life, memory_order_relaxed);
    if (life == 0 || pthread_mutex_trylock(&reader->joining[writer]) != 0) return;
    stress_place *place = atomic_load_explicit(&reader->places[writer], memory_order_acquire);
    bool over = !place || !place_enter(place);
    if (!over) place_exit(place);
    if (!over && place->life != life) {
        atomic_store_explicit(&reader->id_high[writer], 0, memory_order_relaxed);
        if (place_end(place, false)) count(CLOSED, 1);
        over = true;
    }
    if (over) try_join(reader, writer, life, chance);
    pthread_mutex_unlock(&reader->joining[writer]);
}

static bool open_message(stress_place *place, const stress_message *message, stress_held *held) {
    uint32_t segment;
    const shmt_reference *reference = &message->reference;
    for (;;) {
        shmt_status status = shmt_lease_open(place->attachment, reference, &held->lease, &segment);
        if (status == SHMT_OK) break;
        if (status == SHMT_STALE) {
            count(STALE, 1);
            return false;
        }
        if (status != SHMT_NEED_SEGMENT) broken("open answered %d", (int)status);
        if (!map_segment(place, segment)) {
            shmt_ticket_acknowledge(place->attachment, reference->sender, reference->ticket, reference->sequence);
            return false;
        }
    }
    held->place = place;
    held->payload = message->payload;
    held->offset = reference->offset;
    count(OPENED, 1);
    return true;
}

/* A handle of a ring that it has left is dropped: whoever sent it finds the new epoch. */
static bool receive(stress_reader *reader, stress_held *held) {
    stress_message message;
    if (!mail_receive(reader, &message)) return false;
    stress_place *place = atomic_load_explicit(&reader->places[message.writer], memory_order_acquire);
    if (!place || place->life != message.life || !place_enter(place)) {
        count(AGAIN, 1);
        return true;
    }
    bool opened = open_message(place, &message, held);
    place_exit(place);
    if (opened) held_check(held);
    return true;
}

/* Leaves a lease for the reader's other thread, or takes one from it. */
static void hand_over(stress_reader *reader, stress_held *held) {
    pthread_mutex_lock(&reader->bag_guard);
    if (held->place && reader->bag_length < HELD_MOST) {
        reader->bag[reader->bag_length++] = *held;
        held->place = NULL;
    } else if (!held->place && reader->bag_length) {
        *held = reader->bag[--reader->bag_length];
        count(HANDED_OVER, 1);
    }
    pthread_mutex_unlock(&reader->bag_guard);
}

static void end(stress_held *held) {
    held_check(held);
    held_end(held);
}

static void use(stress_reader *reader, stress_held *held, stress_chance *chance) {
    switch (draw(chance, 4)) {
    case 0: hand_over(reader, held); break;
    case 1:
        if (held->place && !atomic_load_explicit(&ending, memory_order_relaxed) && place_enter(held->place)) {
            spread(held, chance);
            place_exit(held->place);
        }
        break;
    default:
        if (held->place) end(held);
    }
}

/* What does not happen with every handle. */
static void now_and_then(stress_reader *reader, stress_chance *chance) {
    uint32_t writer = (uint32_t)draw(chance, writers);
    stress_place *place = atomic_load_explicit(&reader->places[writer], memory_order_acquire);
    if (place && one_in(chance, 12)) {
        bool dies = one_in(chance, 2);
        if (place_end(place, dies)) count(dies ? DIED : CLOSED, 1);
    } else if (place && one_in(chance, 2) && place_enter(place)) {
        count(REAPED, shmt_reap(place->attachment));
        place_exit(place);
    } else if (one_in(chance, 8)) {
        /* The next ring too, which may just be in the making. */
        sweep(writer, atomic_load_explicit(&rings[writer].life, memory_order_relaxed) + draw(chance, 2));
    }
    for (uint32_t w = 0; w < writers; w++) follow(reader, w, chance);
}

void *reader_thread(void *argument) {
    uint32_t number = (uint32_t)(uintptr_t)argument;
    stress_reader *reader = &the_readers[number / THREADS];
    stress_chance chance = {.state = (seed << 16) + (1u << 12) + number};
    stress_held held[HELD_MOST] = {0};
    deferred_begin((1u << 12) + number);
    for (bool came = true; came || !atomic_load_explicit(&ending, memory_order_relaxed);) {
        stress_held *slot = &held[draw(&chance, HELD_MOST)];
        if (slot->place) end(slot);
        came = receive(reader, slot);
        use(reader, &held[draw(&chance, HELD_MOST)], &chance);
        if (one_in(&chance, 20)) deferred_finish();
        if (!came || one_in(&chance, 30)) now_and_then(reader, &chance);
    }
    for (uint32_t i = 0; i < HELD_MOST; i++)
        if (held[i].place) end(&held[i]);
    hand_over(reader, &held[0]);
    for (; held[0].place; hand_over(reader, &held[0])) end(&held[0]);
    deferred_finish();
    return NULL;
}
