/* seals.h - what makes an anonymous segment (memfd) safe to map: nobody can shrink it, nor map it anew to write.
 *
 * A shrunk file is a SIGBUS in everybody who maps it. A sealed one cannot be shrunk, by its creator neither, so a
 * reader that has seen the seals needs to trust nobody for that. Source: fcntl(2), "File Sealing"; Linux 5.1. */
#ifndef SHMT_SEALS_H
#define SHMT_SEALS_H

#include <stdbool.h>

#include "status.h"

/* The size of `fd` is final. With `read_only` whoever maps it from now on can only read; mappings that exist stay
 * writable. For good: the seals cannot be taken off, nor others added. */
shmt_status shmt_seal(int fd, bool read_only);

/* Whether shmt_seal() was called on what `fd` refers to. False for anything but a memfd. */
bool shmt_is_sealed(int fd, bool read_only);

#endif
