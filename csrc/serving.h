/* serving.h - hands the descriptors of an anonymous ring (memfd) to the processes that join it.
 *
 * What has no name cannot be opened, only handed over. The writer listens on a unix socket whose name stands in a
 * directory that is closed to other users; shmtransport/segment/memfd.py makes both, and asks. One connection is
 * one question:
 *
 *   asks     4 bytes, little-endian: the number of a segment; 0 is the control segment, n the n-th data segment
 *   answer   one byte: 1 and the descriptor (SCM_RIGHTS), or 0: no such segment
 *
 * Both ends compare the other's user (SO_PEERCRED) with their own before anything is said. A thread of the core
 * answers, so that a writer whose Python is busy, or has let its ring go while tensors live on, still answers.
 * It serves one connection at a time and gives each a tenth of a second; who was cut off asks again.
 * Fork: a child closes its copies, or it would keep the socket open and the memory alive. */
#ifndef SHMT_SERVING_H
#define SHMT_SERVING_H

#include <stdint.h>

#include "status.h"

typedef struct shmt_serving shmt_serving;

/* No descriptor and no socket yet. */
shmt_status shmt_serving_create(shmt_serving **out);

/* A duplicate of `fd` is the answer for `number`, the next one or again the last. One thread at a time. */
shmt_status shmt_serving_add(shmt_serving *serving, uint32_t number, int fd);

/* Takes over the listening, non-blocking socket `listener` and starts to answer; `path` is removed at the end. */
shmt_status shmt_serving_start(shmt_serving *serving, int listener, const char *path);

/* Removes the socket's name: nobody new finds it. From any thread, also at the process's end; idempotent. */
void shmt_serving_unlink(shmt_serving *serving);

/* Stops the thread, within its tenth of a second, and no longer listens. Idempotent; one thread at a time. */
void shmt_serving_stop(shmt_serving *serving);

/* Removes the name, stops, frees everything. NULL: nothing. */
void shmt_serving_destroy(shmt_serving *serving);

/* In a forked child: closes what it inherited and nothing else. */
void shmt_serving_forget(shmt_serving *serving);

#endif
