#define _GNU_SOURCE
#include "serving.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "kill_points.h"
#include "layout.h"
#include "threads.h"

#define PATIENCE_MS 100
#define IDLE_SLICE_MS 1000

/* A descriptor, and what tells whether it is still ours: the application may have closed it behind our back, and
 * its number may be another file's by now. */
typedef struct owned_fd {
    int fd;
    dev_t device;
    ino_t inode;
} owned_fd;

struct shmt_serving {
    owned_fd listener;
    char path[sizeof((struct sockaddr_un *)0)->sun_path];
    _Atomic bool unlinked;
    pthread_t thread;
    bool runs;
    _Atomic bool stops;
    owned_fd segments[1 + SHMT_SEGMENTS];
    _Atomic uint32_t length; /* stored with release after the descriptor */
};

static bool own(owned_fd *owned, int fd) {
    struct stat facts;
    if (fd < 0 || fstat(fd, &facts) != 0) return false;
    *owned = (owned_fd){fd, facts.st_dev, facts.st_ino};
    return true;
}

static bool is_ours(const owned_fd *owned) {
    struct stat facts;
    return owned->fd >= 0 && fstat(owned->fd, &facts) == 0 && facts.st_dev == owned->device && facts.st_ino == owned->inode;
}

static void close_owned(owned_fd *owned) {
    if (is_ours(owned)) close(owned->fd);
    owned->fd = -1;
}

shmt_status shmt_serving_create(shmt_serving **out) {
    shmt_serving *serving = calloc(1, sizeof *serving);
    if (!serving) return SHMT_NO_MEMORY;
    serving->listener.fd = -1;
    *out = serving;
    return SHMT_OK;
}

shmt_status shmt_serving_add(shmt_serving *serving, uint32_t number, int fd) {
    uint32_t length = atomic_load_explicit(&serving->length, memory_order_relaxed);
    if (number > SHMT_SEGMENTS || number > length) return SHMT_CORRUPT;
    if (number < length) { /* its segment could not be added after all */
        atomic_store_explicit(&serving->length, number, memory_order_release);
        close_owned(&serving->segments[number]);
    }
    if (!own(&serving->segments[number], fcntl(fd, F_DUPFD_CLOEXEC, 3))) return SHMT_SYSTEM;
    atomic_store_explicit(&serving->length, number + 1, memory_order_release);
    SHMT_KILL_POINT("serve.added");
    return SHMT_OK;
}

static bool is_same_user(int client) {
    struct ucred peer;
    socklen_t nbytes = sizeof peer;
    return getsockopt(client, SOL_SOCKET, SO_PEERCRED, &peer, &nbytes) == 0 && peer.uid == geteuid();
}

static void send_answer(int client, const owned_fd *segment) {
    union {
        char bytes[CMSG_SPACE(sizeof(int))];
        struct cmsghdr aligned;
    } control = {0};
    char answer = segment != NULL;
    struct iovec body = {.iov_base = &answer, .iov_len = 1};
    struct msghdr message = {.msg_iov = &body, .msg_iovlen = 1};
    if (segment) {
        message.msg_control = control.bytes;
        message.msg_controllen = sizeof control.bytes;
        struct cmsghdr *head = CMSG_FIRSTHDR(&message);
        *head = (struct cmsghdr){.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(int))};
        memcpy(CMSG_DATA(head), &segment->fd, sizeof(int));
    }
    sendmsg(client, &message, MSG_NOSIGNAL);
    SHMT_KILL_POINT("serve.answered");
}

static void answer(shmt_serving *serving, int client) {
    const struct timeval patience = {.tv_usec = PATIENCE_MS * 1000};
    setsockopt(client, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    setsockopt(client, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    uint8_t asked[4];
    if (!is_same_user(client) || recv(client, asked, sizeof asked, MSG_WAITALL) != sizeof asked) return;
    uint32_t number = asked[0] | (uint32_t)asked[1] << 8 | (uint32_t)asked[2] << 16 | (uint32_t)asked[3] << 24;
    bool known = number < atomic_load_explicit(&serving->length, memory_order_acquire) && is_ours(&serving->segments[number]);
    send_answer(client, known ? &serving->segments[number] : NULL);
}

static void *serve(void *context) {
    shmt_serving *serving = context;
    struct pollfd listener = {.fd = serving->listener.fd, .events = POLLIN};
    while (!serving->stops) {
        if (poll(&listener, 1, IDLE_SLICE_MS) <= 0 || serving->stops) continue;
        int client = is_ours(&serving->listener) ? accept4(listener.fd, NULL, NULL, SOCK_CLOEXEC) : -1;
        if (client >= 0) {
            answer(serving, client);
            close(client);
        } else if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED) {
            poll(NULL, 0, PATIENCE_MS); /* out of descriptors, or closed behind our back: not in a hurry */
        }
    }
    return NULL;
}

shmt_status shmt_serving_start(shmt_serving *serving, int listener, const char *path) {
    if (serving->runs || strlen(path) >= sizeof serving->path) return SHMT_CORRUPT;
    if (!own(&serving->listener, fcntl(listener, F_DUPFD_CLOEXEC, 3))) return SHMT_SYSTEM;
    strcpy(serving->path, path);
    errno = shmt_thread_start(&serving->thread, NULL, serve, serving);
    serving->runs = errno == 0;
    return serving->runs ? SHMT_OK : SHMT_SYSTEM;
}

void shmt_serving_unlink(shmt_serving *serving) {
    if (serving->path[0] && !atomic_exchange(&serving->unlinked, true)) {
        unlink(serving->path);
        SHMT_KILL_POINT("unlink.socket");
    }
}

void shmt_serving_stop(shmt_serving *serving) {
    if (!serving->runs) return;
    serving->stops = true;
    if (is_ours(&serving->listener)) shutdown(serving->listener.fd, SHUT_RDWR); /* ends its poll at once */
    pthread_join(serving->thread, NULL);
    serving->runs = false;
    close_owned(&serving->listener);
}

void shmt_serving_destroy(shmt_serving *serving) {
    if (!serving) return;
    shmt_serving_unlink(serving);
    shmt_serving_stop(serving);
    shmt_serving_forget(serving);
    free(serving);
}

void shmt_serving_forget(shmt_serving *serving) {
    close_owned(&serving->listener);
    for (uint32_t n = 0; n < serving->length; n++) close_owned(&serving->segments[n]);
}
