/* keeper.h - leases of a process that uses CUDA: they end behind the copies that may still read them.
 *
 * An asynchronous copy to a device outlives the tensor it reads. So once a segment is registered for DMA, a lease that
 * ends here (the deferral hook of attachment.h) is kept, and one thread of the process, the keeper, does in turn
 *
 *   take        all leases kept since the last time
 *   record      one event a device, behind everything that the application has enqueued on any stream
 *   wait        until they have passed
 *   finish      those leases
 *
 * Nothing is recorded while a stream is being captured into a graph, which an event of the whole device would spoil:
 * who captures says so. Leases wait that long. A process that ends finishes none any more; the kernel frees its lock,
 * and with it the leases, when the process and its copies are gone.
 * Threads: any may end leases. Fork: a child has no keeper and nothing kept. */
#ifndef SHMT_KEEPER_H
#define SHMT_KEEPER_H

#include "attachment.h"

/* From now on leases of this attachment end by event. Starts the keeper; idempotent. The driver must be loaded. */
shmt_status shmt_keep(shmt_attachment *attachment);

/* Registers data segment `number`, mapped, for DMA, until it is unmapped; only of an attachment that is kept.
 * *code is the driver's answer, or SHMT_CUDA_ABSENT; SHMT_OK also where that is an error. One thread at a time. */
shmt_status shmt_pin(shmt_attachment *attachment, uint32_t number, int *code);

/* Captures under way in this process: +1 before one begins, -1 when it has ended. The first waits for an event that is
 * just being recorded, some microseconds. */
void shmt_capturing(int change);

/* Leases kept at the moment. */
uint64_t shmt_kept(void);

/* For leaving.c: the process ends, and the driver with it. */
void shmt_keeper_stop(void);

#endif
