/* segments.c - a ring's segments on either backing: names in /dev/shm, or memfds that the writer hands over. Every other
 * ring is anonymous. Whoever asks for a descriptor does it by system calls that no sanitizer intercepts (see mail.c). */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "stress.h"

static uint64_t run_number; /* in the names: unlike those of any other run on this machine */
static const char *folder; /* of the sockets */

void segments_begin(uint64_t number, const char *of_sockets) {
    run_number = number;
    folder = of_sockets;
}

bool is_anonymous(uint32_t writer, uint64_t life) { return (writer + life) % 2 == 0; }

void ring_id(uint8_t id[16], uint32_t writer, uint64_t life) {
    uint64_t low = (uint64_t)writer << 48 | life;
    memcpy(id, &run_number, 8);
    memcpy(id + 8, &low, 8);
}

void ring_prefix(char prefix[SHMT_PREFIX_NBYTES], uint32_t writer, uint64_t life) {
    uint8_t id[16];
    prefix[0] = 0;
    if (is_anonymous(writer, life)) return;
    ring_id(id, writer, life);
    int length = snprintf(prefix, SHMT_PREFIX_NBYTES, "shmt-%u-", (unsigned)geteuid());
    for (int i = 0; i < 16; i++)
        length += snprintf(prefix + length, SHMT_PREFIX_NBYTES - (size_t)length, "%02x", id[i]);
    snprintf(prefix + length, SHMT_PREFIX_NBYTES - (size_t)length, "-");
}

static struct sockaddr_un socket_of(uint32_t writer, uint64_t life) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "%s/%u-%llu", folder, writer, (unsigned long long)life);
    return address;
}

void serve_ring(shmt_attachment *attachment, uint32_t writer, uint64_t life) {
    struct sockaddr_un address = socket_of(writer, life);
    int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof address) != 0 || listen(listener, 128) != 0)
        broken("no socket");
    if (shmt_serve(attachment, listener, address.sun_path) != SHMT_OK) broken("the ring is not served");
    close(listener);
}

/* What csrc/serving.h says, from the other end. -1: nobody answers, or there is no such segment. */
static int ask(uint32_t writer, uint64_t life, uint32_t number) {
    struct sockaddr_un address = socket_of(writer, life);
    struct timeval patience = {.tv_sec = 5};
    union {
        char bytes[CMSG_SPACE(sizeof(int))];
        struct cmsghdr aligned;
    } control = {0};
    char answer = 0;
    struct iovec body = {.iov_base = &answer, .iov_len = 1};
    struct msghdr message = {
        .msg_iov = &body, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control.bytes};
    int fd = -1, asking = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (asking < 0) broken("no socket");
    setsockopt(asking, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    setsockopt(asking, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    if (syscall(SYS_connect, asking, &address, sizeof address) == 0 &&
        syscall(SYS_sendto, asking, &number, sizeof number, MSG_NOSIGNAL, NULL, 0) == sizeof number &&
        syscall(SYS_recvmsg, asking, &message, MSG_CMSG_CLOEXEC) == 1 && answer && CMSG_FIRSTHDR(&message))
        memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof fd);
    close(asking);
    return fd;
}

int open_segment(uint32_t writer, uint64_t life, uint32_t number, bool create) {
    char prefix[SHMT_PREFIX_NBYTES], name[SHMT_PREFIX_NBYTES + 16];
    if (is_anonymous(writer, life)) {
        if (!create) return ask(writer, life, number);
        int fd = memfd_create("shmt-stress", MFD_CLOEXEC | MFD_ALLOW_SEALING);
        if (fd >= 0 && fchmod(fd, 0600) != 0) broken("a memfd keeps its mode");
        return fd;
    }
    ring_prefix(prefix, writer, life);
    snprintf(name, sizeof name, "/%s%u", prefix, number);
    return shm_open(name, create ? O_RDWR | O_CREAT | O_EXCL : O_RDWR, 0600);
}

void sweep(uint32_t writer, uint64_t life) {
    char prefix[SHMT_PREFIX_NBYTES];
    shmt_file file = {0};
    if (is_anonymous(writer, life)) return;
    int fd = open_segment(writer, life, 0, false);
    if (fd < 0) return;
    ring_prefix(prefix, writer, life);
    if (shmt_file_init(&file, fd, prefix) != SHMT_OK) broken("no descriptor");
    shmt_names_unlink(&file, prefix);
    shmt_file_close(&file);
    close(fd);
    count(SWEEPS, 1);
}

void sweep_dead(uint32_t writer, uint64_t life) {
    struct sockaddr_un address = socket_of(writer, life);
    if (is_anonymous(writer, life))
        unlink(address.sun_path);
    else
        sweep(writer, life);
}

uint32_t entries_of(const char *path, const char *beginning) {
    uint32_t found = 0;
    DIR *names = opendir(path);
    if (!names) broken("no %s", path);
    for (struct dirent *item; (item = readdir(names));)
        found += item->d_name[0] != '.' && strncmp(item->d_name, beginning, strlen(beginning)) == 0;
    closedir(names);
    return found;
}

uint32_t names_left(void) {
    char prefix[SHMT_PREFIX_NBYTES];
    ring_prefix(prefix, 0, 1);
    prefix[strlen(prefix) - 17] = 0; /* what the names of this run have in common */
    return entries_of("/dev/shm", prefix) + entries_of(folder, "");
}
