/* steps_ring.h - a ring without Python around it, who survives in it, and what must hold when somebody has died. */
#ifndef STEPS_RING_H
#define STEPS_RING_H

#include "leases.h"

/* If `condition` does not hold, says so and ends this program. */
#define EXPECT(condition) ((condition) ? (void)0 : fail(#condition, __FILE__, __LINE__))
_Noreturn void fail(const char *what, const char *file, int line); /* steps.c: it knows where we are */

/* Peer ids, by role. */
enum { WRITER = 1, BYSTANDER, VICTIM, DEAD, HEIR };

/* Here: the two ends of the ring that lives on; for a victim that is a writer, a reader and what it has open. */
extern shmt_attachment *writer, *bystander, *reader;
extern shmt_lease read_lease;

/* Another ring for parent and child alike, whichever makes it. The memfds of an anonymous one are inherited. */
extern bool is_anonymous;
void choose_ring(uint32_t number);
shmt_attachment *made_ring(void);

/* The part of a join that is not the core's comes first, so that only the core's is stepped through. */
void look_up_ring(void);
shmt_attachment *joined(uint64_t id);
shmt_attachment *joined_anew(uint64_t id); /* both parts */

/* What is done with blocks, all of one size. It must succeed. */
void allocate(shmt_attachment *holder, shmt_lease *lease);
shmt_lease put(shmt_attachment *holder, uint8_t content);
shmt_reference shared(shmt_attachment *sender, shmt_lease lease, uint64_t id);
shmt_lease opened(shmt_attachment *holder, shmt_reference reference);
void let_go(shmt_attachment *holder, shmt_lease lease);
bool holds_only(shmt_lease lease, uint8_t content);
uint32_t settle(shmt_attachment *sender); /* how many tickets stay open */

/* Nanoseconds of a transfer from writer to bystander, the fastest of some: what is slow for good is slow each time. */
int64_t transfer(void);

/* After the death of a reader, whatever it was doing; what the next transfer took, in nanoseconds. A reaper mends it,
 * or, with `heir_first`, the next tenant of its index; a second death is always left to the reaper. */
int64_t check_living(bool heir_first);

/* After the death of a writer: its reader reads on, and is the one to remove the names. */
void check_orphan(void);

void check_no_name(void);

#endif
