/* steps.c - kills a process after each instruction of one operation of the core, and looks at what that leaves.
 *
 *     steps OPERATION DENSE STRIDE OFFSET        OPERATION: put, share, open, release, reap, join
 *
 * This process is whoever survives: the writer of a ring and a bystander that reads in it, two attachments; for `put`,
 * whose victim is the writer, a reader of the victim's ring. For each instruction k a child is forked, gets ready, is
 * led to its k-th instruction between begins() and ends(), and killed there. Then everything that is left must be in
 * order (check_living, check_orphan), or this program says what is not and exits with 1.
 *
 * How k is reached: the first child is single-stepped, which gives the address of each instruction. The others run to
 * a hardware breakpoint at the address of theirs, as many times as the instruction was there before: a stop costs two
 * switches between processes, and stepping to each k would take a stop for each instruction before it. A child whose
 * way is another one (a contended mutex) ends without having been killed and is counted; there must be few of them.
 * Instructions that have been passed at most DENSE times all get their child; of the others, in a loop over all
 * tickets, one in STRIDE.
 *
 * Prints one line of JSON. x86-64, Linux.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tickets.h"
#include "wait.h"
#include "writer.h"

#define ENTRIES 8u
#define SEGMENT_NBYTES (64u << 10)
#define NBYTES 4096u
#define TRACE_MOST (1u << 20)

static const char *operation_name;
static size_t instruction;
static uintptr_t *trace;

static _Noreturn void fail(const char *what, int line) {
    Dl_info place = {0};
    if (trace) dladdr((void *)trace[instruction], &place);
    fprintf(stderr, "%s killed after %zu instructions, near %s: not so (line %d, errno %d): %s\n", operation_name,
            instruction, place.dli_sname ? place.dli_sname : "?", line, errno, what);
    _exit(1); /* the names stay: the test that runs this finds and removes them */
}

#define EXPECT(condition) ((condition) ? (void)0 : fail(#condition, __LINE__))

/* -- rings ------------------------------------------------------------------------------------------------------- */

static char prefix[SHMT_PREFIX_NBYTES];
static shmt_shape shape;

/* For parent and child alike: what a child of this instruction names its ring, if it makes one. */
static void choose_ring(uint32_t number) {
    shape = (shmt_shape){.backing = SHMT_BACKING_POSIX, .entries = ENTRIES, .capacity_nbytes = SEGMENT_NBYTES,
                         .segment_nbytes = SEGMENT_NBYTES};
    uint32_t id[4] = {0x57e95, (uint32_t)getpid(), number, (uint32_t)shmt_now_ns()};
    memcpy(shape.ring_id, id, sizeof id);
    int length = snprintf(prefix, sizeof prefix, "shmt-%u-", geteuid());
    for (size_t i = 0; i < sizeof shape.ring_id; i++)
        length += snprintf(prefix + length, sizeof prefix - (size_t)length, "%02x", shape.ring_id[i]);
    snprintf(prefix + length, sizeof prefix - (size_t)length, "-");
}

static int open_name(int number, int how) {
    char name[SHMT_FILE_NAME_NBYTES];
    snprintf(name, sizeof name, "/%s%d", prefix, number);
    return shm_open(name, how, 0600);
}

static shmt_peer peer_of(uint64_t id) { return (shmt_peer){.id_low = id, .id_high = 1ull << 63, .name = "steps"}; }
static shmt_peer_id id_of(uint64_t id) { return (shmt_peer_id){id, 1ull << 63}; }

static shmt_attachment *made_ring(void) {
    shmt_attachment *writer;
    shmt_peer peer = peer_of(1);
    int control = open_name(0, O_RDWR | O_CREAT | O_EXCL), segment = open_name(1, O_RDWR | O_CREAT | O_EXCL);
    EXPECT(control >= 0 && segment >= 0);
    EXPECT(shmt_create(control, prefix, &shape, &peer, &writer) == SHMT_OK);
    EXPECT(posix_fallocate(segment, 0, SEGMENT_NBYTES) == 0);
    EXPECT(shmt_add_segment(writer, 0, segment, SEGMENT_NBYTES, true) == SHMT_OK);
    EXPECT(shmt_publish(writer) == SHMT_OK);
    close(control);
    close(segment);
    return writer;
}

/* The part of a join that is not the core's comes first, so that only the core's is stepped through. */
static int control_fd, segment_fd;

static void look_up_ring(void) {
    control_fd = open_name(0, O_RDWR);
    segment_fd = open_name(1, O_RDONLY);
    EXPECT(control_fd >= 0 && segment_fd >= 0);
}

static shmt_attachment *joined(uint64_t id) {
    shmt_attachment *reader;
    shmt_found found;
    shmt_peer peer = peer_of(id);
    EXPECT(shmt_join(control_fd, prefix, &peer, &found, &reader) == SHMT_OK);
    EXPECT(shmt_add_segment(reader, 0, segment_fd, SEGMENT_NBYTES, false) == SHMT_OK);
    return reader;
}

static shmt_attachment *joined_anew(uint64_t id) {
    look_up_ring();
    shmt_attachment *reader = joined(id);
    close(control_fd);
    close(segment_fd);
    return reader;
}

static shmt_lease put(shmt_attachment *writer, uint8_t content) {
    shmt_lease lease;
    EXPECT(shmt_allocate(writer, NBYTES, &lease) == SHMT_OK);
    memset(lease.address, content, NBYTES);
    return lease;
}

static shmt_reference shared(shmt_attachment *sender, shmt_lease lease, uint64_t id) {
    shmt_reference reference;
    shmt_peer_id reader = id_of(id);
    EXPECT(shmt_share(sender, (uintptr_t)lease.address, NBYTES, &reader, 1, &reference) == SHMT_OK);
    return reference;
}

static shmt_lease opened(shmt_attachment *reader, shmt_reference reference) {
    shmt_lease lease;
    uint32_t segment;
    EXPECT(shmt_lease_open(reader, &reference, &lease, &segment) == SHMT_OK);
    return lease;
}

static void let_go(shmt_attachment *holder, shmt_lease lease) { shmt_lease_end(holder, lease.entry, lease.generation); }

static bool holds_only(shmt_lease lease, uint8_t content) {
    for (uint32_t i = 0; i < NBYTES; i++)
        if (lease.address[i] != content) return false;
    return true;
}

static uint32_t settle(shmt_attachment *sender) {
    pthread_mutex_lock(&sender->mutex);
    uint32_t open = shmt_settle(sender, UINT32_MAX, true);
    pthread_mutex_unlock(&sender->mutex);
    return open;
}

/* -- who takes part ---------------------------------------------------------------------------------------------- */

enum { WRITER = 1, BYSTANDER, VICTIM, DEAD, HEIR };

static shmt_attachment *writer, *bystander, *victim; /* the last one in the child, the others here */

/* Seen by parent and child. */
static struct common {
    shmt_reference to_victim, to_reader;
} *common;

static shmt_lease held; /* in the child */

/* A handle for the victim of a block that only its ticket still holds. */
static void send_to_victim(void) {
    shmt_lease lease = put(writer, 0x5a);
    common->to_victim = shared(writer, lease, VICTIM);
    let_go(writer, lease);
}

/* A reader that has just died: a block open, another's handle under way to it, and one of its own to the bystander. */
static void make_a_dead_reader(void) {
    shmt_attachment *dead = joined_anew(DEAD);
    shmt_lease ours = put(writer, 0x77), unopened = put(writer, 0x78);
    shmt_lease lease = opened(dead, shared(writer, ours, DEAD));
    shared(writer, unopened, DEAD);
    shared(dead, lease, BYSTANDER);
    let_go(writer, ours);
    let_go(writer, unopened);
    shmt_abandon(dead);
    let_go(dead, lease);
    shmt_close(dead);
}

static void nothing(void) {}
static void join_first(void) { victim = joined_anew(VICTIM); }
static void open_what_was_sent(void) { held = opened(victim, common->to_victim); }

static void act_share(void) { shared(victim, held, BYSTANDER); }
static void act_open(void) { held = opened(victim, common->to_victim); }
static void act_release(void) { let_go(victim, held); }
static void act_reap(void) { EXPECT(shmt_reap(victim) == 1); }
static void act_join(void) { victim = joined(VICTIM); }
static void act_put(void) { EXPECT(shmt_allocate(victim, NBYTES, &held) == SHMT_OK); }

/* `put`: the victim is the writer, and we are its only reader. */
static shmt_attachment *reader;
static shmt_lease read_lease;

static void victim_makes_its_ring(void) { victim = made_ring(); }
static void we_join_it(void) { reader = joined_anew(BYSTANDER); }
static void victim_sends_to_us(void) {
    held = put(victim, 0x3c);
    common->to_reader = shared(victim, held, BYSTANDER);
    let_go(victim, held);
    held = put(victim, 0x3d); /* and holds one itself */
}

static const struct operation {
    const char *name;
    void (*before)(void);   /* here, before the fork */
    void (*arrive)(void);   /* in the child */
    void (*meanwhile)(void); /* here, while the child waits */
    void (*ready)(void);    /* in the child */
    void (*act)(void);      /* in the child, step by step */
} operations[] = {
    {"put", nothing, victim_makes_its_ring, we_join_it, victim_sends_to_us, act_put},
    {"share", nothing, join_first, send_to_victim, open_what_was_sent, act_share},
    {"open", nothing, join_first, send_to_victim, nothing, act_open},
    {"release", nothing, join_first, send_to_victim, open_what_was_sent, act_release},
    {"reap", nothing, join_first, make_a_dead_reader, nothing, act_reap},
    {"join", make_a_dead_reader, look_up_ring, nothing, nothing, act_join},
};

/* -- what must hold afterwards ----------------------------------------------------------------------------------- */

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

/* The fastest of some: what is slow for good is slow each time. */
static int64_t transfer(void) {
    int64_t fastest = INT64_MAX;
    for (int i = 0; i < 5; i++) {
        int64_t took = transfer_once((uint8_t)(instruction + (size_t)i));
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
    for (uint32_t r = 0; r < SHMT_INDICES; r++) EXPECT(shmt_lock_is_held(&writer->file, r) == ((living & shmt_bit(r)) != 0));
}

/* A new tenant of the victim's index: nothing of its predecessor's counts as its own. */
static shmt_attachment *joined_as_heir(void) {
    shmt_attachment *heir = joined_anew(HEIR);
    EXPECT(heir->index == 2);
    for (uint32_t e = 0; e < ENTRIES; e++) EXPECT((shmt_word_mask(writer->entries[e].word) & shmt_bit(2)) == 0);
    for (uint32_t i = 0; i < SHMT_TICKETS; i++) EXPECT(shmt_word_mask(heir->tickets[2 * SHMT_TICKETS + i]) == 0);
    return heir;
}

/* After the death of a reader, whatever it was doing; what the next transfer took, in nanoseconds. One time a reaper
 * mends it, the other time the next tenant of its index; a second death is always left to the reaper. */
static int64_t check_living(void) {
    bool heir_first = instruction % 2;
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

/* After the death of a writer: its reader reads on, and is the one to remove the names. */
static void check_orphan(void) {
    EXPECT(holds_only(read_lease, 0x3c));
    EXPECT(!shmt_lock_is_held(&reader->file, SHMT_WRITER));
    let_go(reader, read_lease);
    shmt_close(reader);
    EXPECT(open_name(0, O_RDWR) < 0 && open_name(1, O_RDWR) < 0);
}

/* -- ptrace ------------------------------------------------------------------------------------------------------ */

__attribute__((noinline, noclone)) static void begins(void) { __asm__ volatile(""); }
__attribute__((noinline, noclone)) static void ends(void) { __asm__ volatile(" "); }

static void stopped(pid_t child) {
    int status;
    EXPECT(waitpid(child, &status, 0) == child);
    EXPECT(WIFSTOPPED(status) && (WSTOPSIG(status) == SIGSTOP || WSTOPSIG(status) == SIGTRAP));
}

static void resume(pid_t child) {
    EXPECT(ptrace(PTRACE_CONT, child, NULL, NULL) == 0);
    stopped(child);
}

static uintptr_t address_of(pid_t child) {
    return (uintptr_t)ptrace(PTRACE_PEEKUSER, child, offsetof(struct user, regs.rip), NULL);
}

static void set_breakpoints(pid_t child, uintptr_t first, uintptr_t second) {
    uintptr_t at = offsetof(struct user, u_debugreg);
    EXPECT(ptrace(PTRACE_POKEUSER, child, at + 7 * 8, 0) == 0);
    EXPECT(ptrace(PTRACE_POKEUSER, child, at, first) == 0 && ptrace(PTRACE_POKEUSER, child, at + 8, second) == 0);
    EXPECT(ptrace(PTRACE_POKEUSER, child, at + 7 * 8, 0x5) == 0); /* both, on execution */
}

/* A child that is about to begin. */
static pid_t started(const struct operation *operation) {
    operation->before();
    pid_t child = fork();
    EXPECT(child >= 0);
    if (child == 0) {
        EXPECT(ptrace(PTRACE_TRACEME, 0, NULL, NULL) == 0);
        operation->arrive();
        raise(SIGSTOP);
        operation->ready();
        raise(SIGSTOP);
        if (victim) settle(victim); /* or its settling thread does, at its own time */
        begins();
        operation->act();
        ends();
        for (;;) pause();
    }
    stopped(child);
    EXPECT(ptrace(PTRACE_SETOPTIONS, child, NULL, PTRACE_O_EXITKILL) == 0);
    operation->meanwhile();
    resume(child);
    if (operation->act == act_put) read_lease = opened(reader, common->to_reader);
    set_breakpoints(child, (uintptr_t)begins, (uintptr_t)ends);
    resume(child);
    EXPECT(address_of(child) == (uintptr_t)begins);
    return child;
}

/* Steps that stay where they are are the rounds of a `rep` instruction. */
static size_t record(pid_t child) {
    size_t length = 0;
    for (uintptr_t at; (at = address_of(child)) != (uintptr_t)ends;) {
        EXPECT(length < TRACE_MOST);
        if (!length || trace[length - 1] != at) trace[length++] = at;
        EXPECT(ptrace(PTRACE_SINGLESTEP, child, NULL, NULL) == 0);
        stopped(child);
    }
    return length;
}

static bool led_to(pid_t child, size_t k, size_t passages) {
    if (k == 0) return true;
    set_breakpoints(child, trace[k], (uintptr_t)ends);
    for (size_t i = 0; i <= passages; i++) {
        resume(child);
        if (address_of(child) == (uintptr_t)ends) return false;
    }
    return true;
}

static void kill_now(pid_t child) {
    int status;
    EXPECT(kill(child, SIGKILL) == 0);
    EXPECT(waitpid(child, &status, 0) == child && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

/* -- all of it --------------------------------------------------------------------------------------------------- */

static int by_size(const void *a, const void *b) {
    int64_t first = *(const int64_t *)a, second = *(const int64_t *)b;
    return (first > second) - (first < second);
}

static double median_us(int64_t *ns, size_t length) {
    qsort(ns, length, sizeof *ns, by_size);
    return length ? (double)ns[length / 2] / 1e3 : 0;
}

static void go(const struct operation *operation, size_t dense, size_t stride, size_t offset) {
    bool lives = operation->act != act_put; /* the ring, through all deaths */
    size_t killed = 0, missed = 0, length = 0;
    int64_t *before = calloc(1000, sizeof *before), *after = calloc(TRACE_MOST, sizeof *after);
    size_t *passages = calloc(TRACE_MOST, sizeof *passages);
    EXPECT(before && after && passages);
    choose_ring(0);
    if (lives) {
        writer = made_ring();
        bystander = joined_anew(BYSTANDER);
        for (size_t i = 0; i < 1000; i++) before[i] = transfer();
    }
    pid_t child;
    for (int warming = 3; warming >= 0; warming--) { /* until this process's heap and stacks are as they will be */
        if (!lives) choose_ring(0);
        child = started(operation);
        if (warming == 0) length = record(child);
        kill_now(child);
        lives ? (void)check_living() : check_orphan();
    }
    for (size_t k = 0; k < length; k++)
        for (size_t j = k; j--;)
            if (trace[j] == trace[k]) {
                passages[k] = passages[j] + 1;
                break;
            }
    for (size_t k = 0; k < length; k++) {
        if (passages[k] > dense && (k + offset) % stride) continue;
        instruction = k;
        if (!lives) choose_ring((uint32_t)k + 1);
        child = started(operation);
        if (led_to(child, k, passages[k]))
            killed++;
        else
            missed++;
        kill_now(child);
        if (lives)
            after[killed + missed - 1] = check_living();
        else
            check_orphan();
    }
    if (lives) {
        shmt_close(bystander);
        shmt_close(writer);
        EXPECT(open_name(0, O_RDWR) < 0 && open_name(1, O_RDWR) < 0);
    }
    printf("{\"operation\": \"%s\", \"instructions\": %zu, \"killed\": %zu, \"missed\": %zu, \"transfer_us_before\": %.1f, "
           "\"transfer_us_after\": %.1f}\n",
           operation->name, length, killed, missed, median_us(before, lives ? 1000 : 0),
           median_us(after, lives ? killed + missed : 0));
}

int main(int count, char **arguments) {
    if (count != 5) return 2;
    operation_name = arguments[1];
    trace = calloc(TRACE_MOST, sizeof *trace);
    common = mmap(NULL, SHMT_PAGE_NBYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    EXPECT(trace && common != MAP_FAILED);
    for (size_t i = 0; i < sizeof operations / sizeof *operations; i++)
        if (strcmp(operations[i].name, operation_name) == 0) {
            go(&operations[i], strtoull(arguments[2], NULL, 10), strtoull(arguments[3], NULL, 10),
               strtoull(arguments[4], NULL, 10));
            return 0;
        }
    return 2;
}
