/* mail.c - how a handle travels: a socket, by system calls that no sanitizer intercepts.
 *
 * ThreadSanitizer takes an intercepted send and receive, or a queue with a mutex, for an order between the two threads.
 * Then the payload would be ordered by the mail, and a release missing in the core would never be seen. */
#define _GNU_SOURCE
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

#include "stress.h"

void mail_open(stress_reader *reader) {
    int ends[2];
    struct timeval wait = {.tv_usec = 5000};
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0 ||
        setsockopt(ends[0], SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait) != 0)
        broken("no socket");
    reader->inner = ends[0];
    reader->outer = ends[1];
}

bool mail_send(stress_reader *reader, const stress_message *message) {
    return syscall(SYS_sendto, reader->outer, message, sizeof *message, MSG_DONTWAIT | MSG_NOSIGNAL, NULL, 0) > 0;
}

bool mail_receive(stress_reader *reader, stress_message *message) {
    memset(message, 0, sizeof *message);
    return syscall(SYS_recvfrom, reader->inner, message, sizeof *message, 0, NULL, NULL) == sizeof *message;
}
