/* steps.c - kills a process after each instruction of one operation of the core, and looks at what that leaves.
 *
 *     steps BACKING OPERATION DENSE STRIDE OFFSET
 *
 * BACKING: posix or memfd. OPERATION: put, share, open, release, reap or join.
 *
 * This process is whoever survives: the writer of a ring and a bystander that reads in it, two attachments; for `put`,
 * whose victim is the writer, a reader of the victim's ring. For each instruction k a child is forked, gets ready, is
 * led to its k-th instruction between begins() and ends(), and killed there. Then everything that is left must be in
 * order (steps_ring.h), or this program says what is not and exits with 1.
 *
 * How k is reached: the first children are single-stepped, and the shortest way that one of them went (on a longer one
 * its settling thread was waiting for a mutex) gives the address of each instruction. The others run to a hardware
 * breakpoint at the address of theirs, as many times as the instruction was there before: a stop costs two switches
 * between processes, and stepping to each k would take a stop for each instruction before it. A child whose way is
 * another one ends without having been killed and is replaced by another, RETRIES times; instructions at which nobody
 * could be killed even so are counted, and must be few. Instructions that have been passed at most DENSE times all get
 * their child; of the others, in a loop over all tickets, one in STRIDE.
 *
 * Prints one line of JSON. x86-64, Linux.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#include "steps_ring.h"
#include "wait.h"

#define TRACE_MOST (1u << 20)
#define WARMING 3
#define RECORDINGS 10
#define RETRIES 3

static const char *operation_name;
static size_t instruction;
static uintptr_t *trace;

_Noreturn void fail(const char *what, const char *file, int line) {
    int saved = errno;
    Dl_info place = {0};
    if (trace) dladdr((void *)trace[instruction], &place);
    fprintf(stderr, "%s killed after %zu instructions, near %s: not so (%s:%d, errno %d): %s\n", operation_name,
            instruction, place.dli_sname ? place.dli_sname : "?", file, line, saved, what);
    _exit(1); /* the names stay: the test that runs this finds and removes them */
}

/* -- the operations ------------------------------------------------------------------------------------------------ */

/* In the child. */
static shmt_attachment *victim;
static shmt_lease held;

/* Seen by parent and child. */
static struct common {
    shmt_reference to_victim, to_reader;
} *common;

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
static void act_put(void) { allocate(victim, &held); }

/* `put`: the victim is the writer, and we are its only reader. */
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
    void (*before)(void);    /* here, before the fork */
    void (*arrive)(void);    /* in the child */
    void (*meanwhile)(void); /* here, while the child waits */
    void (*ready)(void);     /* in the child */
    void (*act)(void);       /* in the child, step by step */
} operations[] = {
    {"put", nothing, victim_makes_its_ring, we_join_it, victim_sends_to_us, act_put},
    {"share", nothing, join_first, send_to_victim, open_what_was_sent, act_share},
    {"open", nothing, join_first, send_to_victim, nothing, act_open},
    {"release", nothing, join_first, send_to_victim, open_what_was_sent, act_release},
    {"reap", nothing, join_first, make_a_dead_reader, nothing, act_reap},
    {"join", make_a_dead_reader, look_up_ring, nothing, nothing, act_join},
};

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
static size_t record(pid_t child, uintptr_t *way) {
    size_t length = 0;
    for (uintptr_t at; (at = address_of(child)) != (uintptr_t)ends;) {
        EXPECT(length < TRACE_MOST);
        if (!length || way[length - 1] != at) way[length++] = at;
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
    uintptr_t *way = calloc(TRACE_MOST, sizeof *way);
    EXPECT(way);
    for (int i = 0; i < WARMING + RECORDINGS; i++) { /* warming: until this process's heap is as it will be */
        if (!lives) choose_ring(0);
        pid_t child = started(operation);
        size_t way_length = record(child, way);
        kill_now(child);
        lives ? (void)check_living(false) : check_orphan();
        if (i <= WARMING || way_length < length) memcpy(trace, way, (length = way_length) * sizeof *way);
    }
    free(way);
    for (size_t k = 0; k < length; k++)
        for (size_t j = k; j--;)
            if (trace[j] == trace[k]) {
                passages[k] = passages[j] + 1;
                break;
            }
    for (size_t k = 0; k < length; k++) {
        if (passages[k] > dense && (k + offset) % stride) continue;
        instruction = k;
        bool there = false;
        for (int i = 0; i <= RETRIES && !there; i++) {
            if (!lives) choose_ring((uint32_t)k + 1);
            pid_t child = started(operation);
            there = led_to(child, k, passages[k]);
            kill_now(child);
            if (lives)
                after[killed + missed] = check_living(instruction % 2);
            else
                check_orphan();
        }
        there ? killed++ : missed++;
    }
    if (lives) {
        shmt_close(bystander);
        shmt_close(writer);
        check_no_name();
    }
    printf("{\"backing\": \"%s\", \"operation\": \"%s\", \"instructions\": %zu, \"killed\": %zu, \"missed\": %zu, ",
           is_anonymous ? "memfd" : "posix", operation->name, length, killed, missed);
    printf("\"transfer_us_before\": %.1f, \"transfer_us_after\": %.1f}\n", median_us(before, lives ? 1000 : 0),
           median_us(after, lives ? killed + missed : 0));
}

int main(int count, char **arguments) {
    if (count != 6) return 2;
    is_anonymous = strcmp(arguments[1], "memfd") == 0;
    operation_name = arguments[2];
    trace = calloc(TRACE_MOST, sizeof *trace);
    common = mmap(NULL, SHMT_PAGE_NBYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    EXPECT(trace && common != MAP_FAILED);
    for (size_t i = 0; i < sizeof operations / sizeof *operations; i++)
        if (strcmp(operations[i].name, operation_name) == 0) {
            go(&operations[i], strtoull(arguments[3], NULL, 10), strtoull(arguments[4], NULL, 10),
               strtoull(arguments[5], NULL, 10));
            return 0;
        }
    return 2;
}
