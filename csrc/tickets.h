/* tickets.h - handles on their way: taken by the sender, acknowledged by who opens, settled by the sender.
 *
 * While a ticket is open the sender's own lease covers the block; nobody ever writes another living
 * process's lease bit (the idea of the whole protocol). A lost message costs an open ticket until it is
 * revoked; a dead reader's bit is settled by its free lock or its row's new epoch. */
#ifndef SHMT_TICKETS_H
#define SHMT_TICKETS_H

#include "leases.h"

/* A reader's 128-bit id. */
typedef struct shmt_peer_id {
    uint64_t low, high;
} shmt_peer_id;

/* One ticket for all `count` readers on the block that holds the tensor's bytes. The caller keeps the tensor
 * alive during the call. SHMT_NOT_FOUND, SHMT_NOT_JOINED, SHMT_UNMAPPABLE, SHMT_NO_TICKET: send the bytes
 * inline. Fills all fields of `reference`. */
shmt_status shmt_share(shmt_attachment *attachment, uintptr_t address, uint64_t nbytes, const shmt_peer_id *readers,
                       size_t count, shmt_reference *reference);

/* These readers (none: all) will not open the ticket: a send failed, a request was aborted. Always safe: a
 * late open gets a lease or SHMT_STALE. False: it was settled already. */
bool shmt_revoke(shmt_attachment *attachment, uint32_t ticket, uint32_t sequence, const shmt_peer_id *readers, size_t count);

/* Takes our bit out of a ticket, if it still is the one of the handle: it was opened (rule 13 d), or refused. Never fails: a handle
 * delivered twice, revoked or from a dead sender stands on its block's word alone. */
void shmt_ticket_acknowledge(shmt_attachment *attachment, uint32_t sender, uint32_t ticket, uint32_t sequence);

/* Settles up to `limit` open tickets; with `liveness` also those addressed to the dead. Returns how many
 * stay open. Caller holds the mutex. */
uint32_t shmt_settle(shmt_attachment *attachment, uint32_t limit, bool liveness);

/* One handle that this process has sent: its block's entry, and the indices that have not opened it yet. */
typedef struct shmt_unopened {
    uint32_t entry, mask;
} shmt_unopened;

/* All of them; `unopened` has room for SHMT_TICKETS. Returns how many there are. Settles nothing. */
uint32_t shmt_unopened_now(shmt_attachment *attachment, shmt_unopened *unopened);

/* Wakes the settling threads of all processes of the ring. */
void shmt_ring_bells(shmt_attachment *attachment);

/* settler.c: the thread that settles for an otherwise idle process. Caller holds the mutex. */
void shmt_settler_start(shmt_attachment *attachment);

/* The last user is gone. Caller holds the mutex, which is released in the same breath: afterwards the thread
 * may free the attachment. True: nothing is open and no thread is left, the caller calls shmt_leave().
 * False: the thread does it once the last ticket is settled. */
bool shmt_settler_retire(shmt_attachment *attachment);

#endif
