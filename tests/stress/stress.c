/* stress.c - one run:  stress WRITERS READERS SEED BLOCKS FOLDER
 *
 * BLOCKS by each thread of each writer; sockets in FOLDER, which is empty. Prints one line of JSON with what happened. Exit status 1 and a sentence on
 * stderr if a byte was wrong, a call answered what it may not, or something was left at the end; a sanitizer's own
 * status if it found something. The seed draws the same chances again, not the same interleaving. */
#define _GNU_SOURCE
#include "stress.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "wait.h"

#define SETTLING_NS 20000000000ll /* what the end of a run may take */

static const char *const event_names[EVENTS] = {
    "blocks", "large", "opened", "stale", "again", "shared", "broadcast", "forwarded", "revoked", "lost", "doubled",
    "grown", "mapped", "full", "waited", "closed", "died", "reaped", "rings", "writers_died", "deferred",
    "handed_over", "not_joined", "refused_joins", "sweeps",
};

_Atomic uint64_t events[EVENTS];
uint32_t writers, readers;
uint64_t seed, blocks_a_thread;
stress_ring rings[MOST];
stress_reader the_readers[MOST];
_Atomic bool ending;

void count(enum event event, uint64_t times) { atomic_fetch_add_explicit(&events[event], times, memory_order_relaxed); }

/* splitmix64 */
uint64_t draw(stress_chance *chance, uint64_t below) {
    uint64_t word = chance->state += 0x9e3779b97f4a7c15ull;
    word = (word ^ word >> 30) * 0xbf58476d1ce4e5b9ull;
    word = (word ^ word >> 27) * 0x94d049bb133111ebull;
    return (word ^ word >> 31) % below;
}

bool one_in(stress_chance *chance, uint64_t many) { return draw(chance, many) == 0; }

void broken(const char *what, ...) {
    va_list values;
    va_start(values, what);
    fprintf(stderr, "stress: ");
    vfprintf(stderr, what, values);
    fprintf(stderr, "\n");
    va_end(values);
    _exit(1);
}

static void start(pthread_t *threads, uint32_t length, void *(*body)(void *)) {
    for (uint32_t i = 0; i < length; i++)
        if (pthread_create(&threads[i], NULL, body, (void *)(uintptr_t)i) != 0) broken("no thread");
}

static void join_all(const pthread_t *threads, uint32_t length) {
    for (uint32_t i = 0; i < length; i++) pthread_join(threads[i], NULL);
}

static void pause_briefly(void) { nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL); }

/* The readers have gone: every byte comes back, and every ticket is settled. */
static void check_ring(uint32_t writer) {
    shmt_attachment *attachment = rings[writer].place->attachment;
    int64_t until = shmt_now_ns() + SETTLING_NS;
    for (;;) {
        shmt_room room;
        shmt_reap(attachment);
        pthread_mutex_lock(&attachment->mutex);
        uint32_t open = shmt_settle(attachment, UINT32_MAX, true);
        pthread_mutex_unlock(&attachment->mutex);
        shmt_room_now(attachment, &room);
        if (!open && !room.used_nbytes && !room.live && room.largest_nbytes <= room.total_nbytes) return;
        if (shmt_now_ns() > until)
            broken("writer %u: left are %llu bytes, %u blocks, %u tickets", writer,
                   (unsigned long long)room.used_nbytes, room.live, open);
        pause_briefly();
    }
}

static void check_nothing_left(uint32_t descriptors) {
    int64_t until = shmt_now_ns() + SETTLING_NS;
    while (names_left() || regions_mapped() || entries_of("/proc/self/fd", "") != descriptors) {
        if (shmt_now_ns() > until)
            broken("left are %u names, %u mappings, %d descriptors", names_left(), regions_mapped(),
                   (int)(entries_of("/proc/self/fd", "") - descriptors));
        pause_briefly();
    }
}

static void print_events(double seconds) {
    printf("{\"writers\": %u, \"readers\": %u, \"seed\": %llu, \"seconds\": %.2f", writers, readers,
           (unsigned long long)seed, seconds);
    for (int i = 0; i < EVENTS; i++) printf(", \"%s\": %llu", event_names[i], (unsigned long long)events[i]);
    printf("}\n");
}

int main(int argc, char **argv) {
    pthread_t writing[MOST * THREADS], reading[MOST * THREADS];
    if (argc != 6) broken("stress WRITERS READERS SEED BLOCKS FOLDER");
    writers = (uint32_t)strtoul(argv[1], NULL, 10);
    readers = (uint32_t)strtoul(argv[2], NULL, 10);
    seed = strtoull(argv[3], NULL, 10);
    blocks_a_thread = strtoull(argv[4], NULL, 10);
    if (!writers || writers > MOST || !readers || readers > MOST) broken("1 to %u writers, and readers", MOST);
    int64_t began = shmt_now_ns();
    segments_begin((uint64_t)began << 20 ^ (uint64_t)getpid(), argv[5]);
    uint32_t descriptors = entries_of("/proc/self/fd", "");

    for (uint32_t r = 0; r < readers; r++) {
        mail_open(&the_readers[r]);
        pthread_mutex_init(&the_readers[r].bag_guard, NULL);
        for (uint32_t w = 0; w < writers; w++) pthread_mutex_init(&the_readers[r].joining[w], NULL);
    }
    for (uint32_t w = 0; w < writers; w++) pthread_mutex_init(&rings[w].growth, NULL);
    start(reading, readers * THREADS, reader_thread);
    start(writing, writers * THREADS, writer_thread);
    join_all(writing, writers * THREADS);
    atomic_store_explicit(&ending, true, memory_order_relaxed);
    join_all(reading, readers * THREADS);

    for (uint32_t r = 0; r < readers; r++) {
        close(the_readers[r].inner);
        close(the_readers[r].outer);
        for (uint32_t w = 0; w < writers; w++)
            if (the_readers[r].places[w]) place_end(the_readers[r].places[w], false);
    }
    for (uint32_t w = 0; w < writers; w++) check_ring(w);
    for (uint32_t w = 0; w < writers; w++) place_end(rings[w].place, false);
    after_the_dead(sweep_dead);
    check_nothing_left(descriptors);
    places_free();
    print_events((double)(shmt_now_ns() - began) / 1e9);
    return 0;
}
