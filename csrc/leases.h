/* leases.h - this process's right to a block: from put or open until its last tensor over it has died and
 * no handle it sent is still unopened.
 *
 * One count of tensors and one of unsettled tickets per entry stand between the tensors of this process and
 * its single bit in the block word. Count and bit change together under the attachment's mutex (rule 9).
 * Any thread; in a forked child ending a lease does nothing, everything else is SHMT_FORKED. */
#ifndef SHMT_LEASES_H
#define SHMT_LEASES_H

#include "attachment.h"

/* A lease as its tensor sees it. */
typedef struct shmt_lease {
    uint8_t *address;
    uint64_t nbytes;
    uint32_t entry;
    uint32_t generation;
    bool writable;
} shmt_lease;

/* What a handle says about the block; the rest of the handle is about the tensor. */
typedef struct shmt_reference {
    uint32_t entry;
    uint32_t generation;
    uint64_t offset; /* in the block */
    uint64_t nbytes;
    uint32_t sender; /* index */
    uint32_t ticket;
    uint32_t sequence;
} shmt_reference;

/* A lease on the block a handle names, and its ticket acknowledged (rule 13). SHMT_STALE: the block is gone.
 * SHMT_BAD_HANDLE: there is no such thing in this ring. SHMT_NEED_SEGMENT: map data segment `*segment`, call
 * again, or acknowledge the ticket if that cannot be. A failure leaves nothing behind and, except for that
 * one, acknowledges: what cannot be opened must not hold up its sender. */
shmt_status shmt_lease_open(shmt_attachment *attachment, const shmt_reference *reference, shmt_lease *lease, uint32_t *segment);

/* The end of one tensor's or pin's claim: the one function that ends leases, from any thread. Runs the
 * deferral hook first, if there is one. */
void shmt_lease_end(shmt_attachment *attachment, uint32_t entry, uint32_t generation);

/* The same behind the hook: what a deferred end calls when its time has come. */
void shmt_lease_finish(shmt_attachment *attachment, uint32_t entry, uint32_t generation);

/* Which block holds [address, address + nbytes)? Needs at least one byte: an empty slice at a block's end
 * has its neighbour's address. Caller holds the mutex. NULL: none that has a tensor here. */
const shmt_span *shmt_span_find(const shmt_attachment *attachment, uintptr_t address, uint64_t nbytes);

/* Caller holds the mutex. Reserve first: adding after it cannot fail. */
shmt_status shmt_span_reserve(shmt_attachment *attachment);
void shmt_span_add(shmt_attachment *attachment, uintptr_t address, uint64_t nbytes, uint32_t entry);

/* Nothing local and nothing in flight any more: our bit goes out. Caller holds the mutex. */
void shmt_lease_release_if_unused(shmt_attachment *attachment, uint32_t entry);

#endif
