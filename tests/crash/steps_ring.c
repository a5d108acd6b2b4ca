#define _GNU_SOURCE
#include "steps_ring.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tickets.h"
#include "wait.h"
#include "writer.h"

#define ENTRIES 8u
#define SEGMENT_NBYTES (64u << 10)
#define NBYTES 4096u

shmt_attachment *writer, *bystander, *reader;
shmt_lease read_lease;

static char prefix[SHMT_PREFIX_NBYTES];
static shmt_shape shape;
bool is_anonymous;
static int memfds[2] = {-1, -1}; /* inherited by the child, in place of names */

void choose_ring(uint32_t number) {
    shape = (shmt_shape){.entries = ENTRIES, .capacity_nbytes = SEGMENT_NBYTES, .segment_nbytes = SEGMENT_NBYTES};
    shape.backing = is_anonymous ? SHMT_BACKING_MEMFD : SHMT_BACKING_POSIX;
    uint32_t id[4] = {0x57e95, (uint32_t)getpid(), number, (uint32_t)shmt_now_ns()};
    memcpy(shape.ring_id, id, sizeof id);
    if (is_anonymous) {
        for (int i = 0; i < 2; i++) {
            if (memfds[i] >= 0) close(memfds[i]);
            memfds[i] = memfd_create("shmt-steps", MFD_CLOEXEC | MFD_ALLOW_SEALING);
            EXPECT(memfds[i] >= 0 && fchmod(memfds[i], 0600) == 0);
        }
        return;
    }
    int length = snprintf(prefix, sizeof prefix, "shmt-%u-", geteuid());
    for (size_t i = 0; i < sizeof shape.ring_id; i++)
        length += snprintf(prefix + length, sizeof prefix - (size_t)length, "%02x", shape.ring_id[i]);
    snprintf(prefix + length, sizeof prefix - (size_t)length, "-");
}

static int open_name(int number, int how) {
    if (is_anonymous) return fcntl(memfds[number], F_DUPFD_CLOEXEC, 3);
    char name[SHMT_FILE_NAME_NBYTES];
    snprintf(name, sizeof name, "/%s%d", prefix, number);
    return shm_open(name, how, 0600);
}

static shmt_peer peer_of(uint64_t id) { return (shmt_peer){.id_low = id, .id_high = 1ull << 63, .name = "steps"}; }
static shmt_peer_id id_of(uint64_t id) { return (shmt_peer_id){id, 1ull << 63}; }

shmt_attachment *made_ring(void) {
    shmt_attachment *made;
    shmt_peer peer = peer_of(WRITER);
    int control = open_name(0, O_RDWR | O_CREAT | O_EXCL), segment = open_name(1, O_RDWR | O_CREAT | O_EXCL);
    EXPECT(control >= 0 && segment >= 0);
    EXPECT(shmt_create(control, prefix, &shape, &peer, &made) == SHMT_OK);
    EXPECT(posix_fallocate(segment, 0, SEGMENT_NBYTES) == 0);
    EXPECT(shmt_add_segment(made, 0, segment, SEGMENT_NBYTES, true) == SHMT_OK);
    EXPECT(shmt_publish(made) == SHMT_OK);
    close(control);
    close(segment);
    return made;
}

static int control_fd, segment_fd;

void look_up_ring(void) {
    control_fd = open_name(0, O_RDWR);
    segment_fd = open_name(1, O_RDONLY);
    EXPECT(control_fd >= 0 && segment_fd >= 0);
}

shmt_attachment *joined(uint64_t id) {
    shmt_attachment *made;
    shmt_found found;
    shmt_peer peer = peer_of(id);
    EXPECT(shmt_join(control_fd, prefix, &peer, &found, &made) == SHMT_OK);
    EXPECT(shmt_add_segment(made, 0, segment_fd, SEGMENT_NBYTES, false) == SHMT_OK);
    return made;
}

shmt_attachment *joined_anew(uint64_t id) {
    look_up_ring();
    shmt_attachment *made = joined(id);
    close(control_fd);
    close(segment_fd);
    return made;
}

void allocate(shmt_attachment *holder, shmt_lease *lease) {
    EXPECT(shmt_allocate(holder, NBYTES, lease) == SHMT_OK);
}

shmt_lease put(shmt_attachment *holder, uint8_t content) {
    shmt_lease lease;
    allocate(holder, &lease);
    memset(lease.address, content, NBYTES);
    return lease;
}

shmt_reference shared(shmt_attachment *sender, shmt_lease lease, uint64_t id) {
    shmt_reference reference;
    shmt_peer_id to = id_of(id);
    EXPECT(shmt_share(sender, (uintptr_t)lease.address, NBYTES, &to, 1, &reference) == SHMT_OK);
    return reference;
}

shmt_lease opened(shmt_attachment *holder, shmt_reference reference) {
    shmt_lease lease;
    uint32_t segment;
    EXPECT(shmt_lease_open(holder, &reference, &lease, &segment) == SHMT_OK);
    return lease;
}

void let_go(shmt_attachment *holder, shmt_lease lease) { shmt_lease_end(holder, lease.entry, lease.generation); }

bool holds_only(shmt_lease lease, uint8_t content) {
    for (uint32_t i = 0; i < NBYTES; i++)
        if (lease.address[i] != content) return false;
    return true;
}

uint32_t settle(shmt_attachment *sender) {
    pthread_mutex_lock(&sender->mutex);
    uint32_t open = shmt_settle(sender, UINT32_MAX, true);
    pthread_mutex_unlock(&sender->mutex);
    return open;
}

static int64_t transfer_once(uint8_t content) {
    int64_t start = shmt_now_ns();
    shmt_lease ours = put(writer, content);
    shmt_lease theirs = opened(bystander, shared(writer, ours, BYSTANDER));
    let_go(writer, ours);
    EXPECT(holds_only(theirs, content));
    let_go(bystander, theirs);
    EXPECT(settle(writer) == 0);
    return shmt_now_ns() - start;
}

int64_t transfer(void) {
    int64_t fastest = INT64_MAX;
    for (int i = 0; i < 5; i++) {
        int64_t took = transfer_once((uint8_t)(0x20 + i));
        if (took < fastest) fastest = took;
    }
    return fastest;
}

static void check_empty(void) {
    shmt_room room;
    shmt_room_now(writer, &room);
    EXPECT(room.used_nbytes == 0 && room.live == 0 && room.largest_nbytes == SEGMENT_NBYTES);
}

static void check_living_only(uint32_t living) {
    for (uint32_t e = 0; e < ENTRIES; e++) EXPECT((shmt_word_mask(writer->entries[e].word) & ~living) == 0);
    for (uint32_t r = 0; r < SHMT_INDICES; r++)
        EXPECT(shmt_lock_is_held(&writer->file, r) == ((living & shmt_bit(r)) != 0));
}

/* A new tenant of the victim's index: nothing of its predecessor's counts as its own. */
static shmt_attachment *joined_as_heir(void) {
    shmt_attachment *heir = joined_anew(HEIR);
    EXPECT(heir->index == 2);
    for (uint32_t e = 0; e < ENTRIES; e++) EXPECT((shmt_word_mask(writer->entries[e].word) & shmt_bit(2)) == 0);
    for (uint32_t i = 0; i < SHMT_TICKETS; i++) EXPECT(shmt_word_mask(heir->tickets[2 * SHMT_TICKETS + i]) == 0);
    return heir;
}

int64_t check_living(bool heir_first) {
    shmt_attachment *heir = heir_first ? joined_as_heir() : NULL;
    shmt_reap(writer);
    check_living_only(shmt_bit(writer->index) | shmt_bit(bystander->index) | (heir_first ? shmt_bit(2) : 0));
    EXPECT(settle(writer) == 0 && settle(bystander) == 0);
    EXPECT(writer->free_length == SHMT_TICKETS);
    EXPECT(atomic_load(&writer->header->waiting) == 0);
    check_empty();
    int64_t took = transfer();

    if (!heir) heir = joined_as_heir();
    shmt_lease ours = put(writer, 0x11);
    shmt_lease theirs = opened(heir, shared(writer, ours, HEIR));
    EXPECT(holds_only(theirs, 0x11));
    let_go(writer, ours);
    shmt_lease forwarded = opened(bystander, shared(heir, theirs, BYSTANDER));
    let_go(heir, theirs);
    shmt_close(heir);
    EXPECT(holds_only(forwarded, 0x11));
    let_go(bystander, forwarded);
    EXPECT(settle(writer) == 0);
    for (int64_t deadline = shmt_now_ns() + 5000000000ll; shmt_lock_is_held(&writer->file, 2);)
        EXPECT(shmt_now_ns() < deadline); /* the heir's thread settles its last ticket and leaves */
    check_empty();
    return took;
}

void check_no_name(void) { EXPECT(is_anonymous || (open_name(0, O_RDWR) < 0 && open_name(1, O_RDWR) < 0)); }

void check_orphan(void) {
    EXPECT(holds_only(read_lease, 0x3c));
    EXPECT(!shmt_lock_is_held(&reader->file, SHMT_WRITER));
    let_go(reader, read_lease);
    shmt_close(reader);
    check_no_name();
}
