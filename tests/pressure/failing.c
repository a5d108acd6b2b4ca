/* failing.c - makes the n-th call of a libc function fail, or something happen just before it, in a process that was
 * started with LD_PRELOAD of this.
 *
 * Only calls from the objects named by failing_watch() are counted and failed, so that torch, zmq and libc itself go on
 * undisturbed: the C core and posix_ipc for every function, the interpreter for those that it calls on behalf of our
 * Python code. It is never refused private memory: a MemoryError anywhere in Python says nothing about this project.
 *
 * Not here: fstat, close, munmap, which cannot fail on what is open or mapped, and futex, a raw system call whose
 * failure is a wake-up like any other. Its Python face is failing.py. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

/* Each with: does a call by the interpreter count? */
#define FUNCTIONS(X)                                                                                                          \
    X(open, true) X(fopen, true) X(opendir, true) X(mkdir, true) X(statvfs, true) X(posix_fallocate, true)                    \
    X(shm_open, true) X(shm_unlink, true) X(memfd_create, true) X(fcntl, true)                                                \
    X(mmap, false) X(madvise, false) X(malloc, false) X(calloc, false) X(realloc, false) X(pthread_create, false)             \
    X(socket, true) X(bind, true) X(listen, true) X(accept4, true) X(connect, true) X(sendmsg, true) X(recvmsg, true)

#define NUMBER(name, interpreted) F_##name,
enum function { FUNCTIONS(NUMBER) F_LENGTH };

#define ROW(name, interpreted) {#name, interpreted},
static const struct {
    const char *name;
    bool interpreted;
} functions[] = {FUNCTIONS(ROW)};

/* Code that is watched: [start, end) of an executable segment. */
static struct {
    uintptr_t start, end;
    bool interpreter;
} watched[16];
static int watched_length;

/* What is armed. Written only while nothing is. */
static _Atomic int armed = -1;
static long first, last;
static int error_number;
static void (*meanwhile)(void);
static _Atomic long calls, hits;

static _Atomic long held; /* heap blocks that watched code has and has not given back */

static bool is_watched(const void *caller, bool interpreted) {
    uintptr_t address = (uintptr_t)caller;
    for (int i = 0; i < watched_length; i++)
        if (address >= watched[i].start && address < watched[i].end) return interpreted || !watched[i].interpreter;
    return false;
}

static bool fails(enum function which, const void *caller) {
    if (atomic_load(&armed) != (int)which || !is_watched(caller, functions[which].interpreted)) return false;
    long number = atomic_fetch_add(&calls, 1) + 1;
    if (number < first || number > last) return false;
    atomic_fetch_add(&hits, 1);
    if (meanwhile) meanwhile();
    errno = error_number;
    return error_number != 0;
}

typedef struct sought {
    const char *symbol_address, *file;
    int found;
} sought;

static int watch_object(struct dl_phdr_info *object, size_t size, void *context) {
    sought *wanted = context;
    (void)size;
    for (int i = 0; i < object->dlpi_phnum; i++) {
        const ElfW(Phdr) *part = &object->dlpi_phdr[i];
        uintptr_t start = object->dlpi_addr + part->p_vaddr, end = start + part->p_memsz;
        if (part->p_type != PT_LOAD || !(part->p_flags & PF_X)) continue;
        bool has_symbol = (uintptr_t)wanted->symbol_address >= start && (uintptr_t)wanted->symbol_address < end;
        if (!(wanted->file ? strcmp(object->dlpi_name, wanted->file) == 0 : has_symbol)) continue;
        if (watched_length == sizeof watched / sizeof *watched) return 1;
        watched[watched_length].start = start;
        watched[watched_length].end = end;
        watched[watched_length++].interpreter = !wanted->file;
        wanted->found++;
    }
    return 0;
}

/* The object loaded from `file`; NULL: the one with the interpreter. True if there is such a one. */
bool failing_watch(const char *file) {
    sought wanted = {dlsym(RTLD_DEFAULT, "Py_Initialize"), file, 0};
    dl_iterate_phdr(watch_object, &wanted);
    return wanted.found > 0;
}

/* The n-th call of `function` from now on fails with `error`; with `from_then_on` all later ones, too. Before it `action`
 * is called, if there is one; with error 0 that is all. False: there is no such function here. */
bool failing_arm(const char *function, long n, int error, bool from_then_on, void (*action)(void)) {
    for (int i = 0; i < F_LENGTH; i++)
        if (strcmp(functions[i].name, function) == 0) {
            atomic_store(&calls, 0);
            atomic_store(&hits, 0);
            first = n;
            last = from_then_on ? INT64_MAX : n;
            error_number = error;
            meanwhile = action;
            atomic_store(&armed, i);
            return true;
        }
    return false;
}

/* How many calls were hit. */
long failing_disarm(void) {
    atomic_store(&armed, -1);
    return atomic_load(&hits);
}

long failing_held(void) { return atomic_load(&held); }

#define CALLER __builtin_return_address(0)
#define FAIL_OR(name, failure) \
    if (fails(F_##name, CALLER)) return failure

static void *real_of(const char *name) {
    void *found = dlsym(RTLD_NEXT, name);
    if (!found) abort();
    return found;
}

/* dlsym() may allocate, but never calls one of these. */
#define REAL(name)                                                   \
    static __typeof__(&name) real;                                   \
    if (!real) real = (__typeof__(&name))real_of(#name)

/* ---- functions with one name ---------------------------------------------------------------------------------- */

#define INTERPOSE(type, name, parameters, arguments, failure) \
    type name parameters {                                    \
        REAL(name);                                           \
        FAIL_OR(name, failure);                               \
        return real arguments;                                \
    }

INTERPOSE(int, shm_open, (const char *name, int how, mode_t mode), (name, how, mode), -1)
INTERPOSE(int, shm_unlink, (const char *name), (name), -1)
INTERPOSE(DIR *, opendir, (const char *path), (path), NULL)
INTERPOSE(int, mkdir, (const char *path, mode_t mode), (path, mode), -1)
INTERPOSE(int, memfd_create, (const char *name, unsigned how), (name, how), -1)
INTERPOSE(int, madvise, (void *start, size_t nbytes, int advice), (start, nbytes, advice), -1)
INTERPOSE(int, pthread_create,
          (pthread_t *restrict thread, const pthread_attr_t *restrict attributes, void *(*run)(void *), void *restrict context),
          (thread, attributes, run, context), error_number)
INTERPOSE(int, socket, (int domain, int type, int protocol), (domain, type, protocol), -1)
INTERPOSE(int, bind, (int fd, const struct sockaddr *address, socklen_t nbytes), (fd, address, nbytes), -1)
INTERPOSE(int, listen, (int fd, int backlog), (fd, backlog), -1)
INTERPOSE(int, accept4, (int fd, struct sockaddr *restrict address, socklen_t *restrict nbytes, int how), (fd, address, nbytes, how), -1)
INTERPOSE(int, connect, (int fd, const struct sockaddr *address, socklen_t nbytes), (fd, address, nbytes), -1)
INTERPOSE(ssize_t, sendmsg, (int fd, const struct msghdr *message, int how), (fd, message, how), -1)
INTERPOSE(ssize_t, recvmsg, (int fd, struct msghdr *message, int how), (fd, message, how), -1)

/* ---- functions with a second name for 64-bit files, one and the same on 64-bit machines ------------------------ */

#define INTERPOSE_64(type, name, other, parameters, arguments, failure) \
    INTERPOSE(type, name, parameters, arguments, failure)               \
    type other parameters {                                             \
        REAL(name);                                                     \
        FAIL_OR(name, failure);                                         \
        return real arguments;                                          \
    }

INTERPOSE_64(FILE *, fopen, fopen64, (const char *restrict path, const char *restrict how), (path, how), NULL)
INTERPOSE_64(void *, mmap, mmap64, (void *start, size_t nbytes, int protection, int how, int fd, off_t offset),
             (start, nbytes, protection, how, fd, offset), MAP_FAILED)
INTERPOSE_64(int, posix_fallocate, posix_fallocate64, (int fd, off_t offset, off_t nbytes), (fd, offset, nbytes), error_number)
INTERPOSE(int, statvfs, (const char *restrict path, struct statvfs *restrict facts), (path, facts), -1)
int statvfs64(const char *restrict path, struct statvfs64 *restrict facts) {
    REAL(statvfs64);
    FAIL_OR(statvfs, -1);
    return real(path, facts);
}

#define INTERPOSE_OPEN(name)                                  \
    int name(const char *path, int how, ...) {                \
        REAL(name);                                           \
        va_list rest;                                         \
        va_start(rest, how);                                  \
        mode_t mode = how & O_CREAT ? va_arg(rest, mode_t) : 0; \
        va_end(rest);                                         \
        FAIL_OR(open, -1);                                    \
        return real(path, how, mode);                         \
    }
INTERPOSE_OPEN(open)
INTERPOSE_OPEN(open64)

#define INTERPOSE_FCNTL(name)                \
    int name(int fd, int command, ...) {     \
        REAL(name);                          \
        va_list rest;                        \
        va_start(rest, command);             \
        void *argument = va_arg(rest, void *); \
        va_end(rest);                        \
        FAIL_OR(fcntl, -1);                  \
        return real(fd, command, argument);  \
    }
INTERPOSE_FCNTL(fcntl)
INTERPOSE_FCNTL(fcntl64)

/* ---- the heap, by glibc's own names for it: dlsym() itself allocates -------------------------------------------- */

void *__libc_malloc(size_t nbytes);
void *__libc_calloc(size_t count, size_t nbytes);
void *__libc_realloc(void *block, size_t nbytes);
void __libc_free(void *block);

static void *count(void *block, const void *caller) {
    if (block && is_watched(caller, false)) atomic_fetch_add(&held, 1);
    return block;
}

void *malloc(size_t nbytes) {
    FAIL_OR(malloc, NULL);
    return count(__libc_malloc(nbytes), CALLER);
}

void *calloc(size_t number, size_t nbytes) {
    FAIL_OR(calloc, NULL);
    return count(__libc_calloc(number, nbytes), CALLER);
}

void *realloc(void *block, size_t nbytes) {
    FAIL_OR(realloc, NULL);
    void *moved = __libc_realloc(block, nbytes);
    return block ? moved : count(moved, CALLER);
}

void free(void *block) {
    if (block && is_watched(CALLER, false)) atomic_fetch_sub(&held, 1);
    __libc_free(block);
}
