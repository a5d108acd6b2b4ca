/* bounds.pml - the configurations: each is complete within its bounds, and each has what its name says.
 *
 * STARTS: mask of the processes that are joined from the beginning. REAPERS: mask of those that reap.
 * TARGETS: options that choose to whom p shares, as a mask of processes. */

#if defined(FORWARDING) /* W -> A -> B; anything may be lost, come twice, be revoked; anybody may die */
#define INDICES     3
#define STARTS      7
#define REAPERS     1
#define ENTRIES     1
#define TICKETS     1
#define HANDLES     2
#define PUTS        2
#define LOSSES      1
#define DUPLICATES  1
#define REVOKES     1
#define SENDERS     3
#define TARGETS(p, to) :: p == 0 -> to = BIT(1) :: p == 1 -> to = BIT(2)

#elif defined(BROADCAST) /* W -> A and B by one ticket; also to A alone */
#define INDICES     3
#define STARTS      7
#define REAPERS     1
#define ENTRIES     1
#define TICKETS     1
#define HANDLES     2
#define PUTS        2
#define LOSSES      1
#define DUPLICATES  1
#define REVOKES     1
#define TARGETS(p, to) :: p == 0 -> to = BIT(1) | BIT(2) :: p == 0 -> to = BIT(1)

#elif defined(CIRCLE) /* W -> A -> W */
#define PROCESSES   2
#define INDICES     2
#define STARTS      3
#define REAPERS     1
#define ENTRIES     1
#define TICKETS     2
#define HANDLES     3
#define PUTS        2
#define LOSSES      1
#define DUPLICATES  1
#define REVOKES     1
#define REFUSALS    0
#define SENDERS     3
#define TARGETS(p, to) :: p == 0 -> to = BIT(1) :: p == 1 -> to = BIT(0)

#elif defined(TICKETS_END) /* W -> A, more handles than tickets; an open may be refused */
#define PROCESSES   2
#define INDICES     2
#define STARTS      3
#define REAPERS     1
#define ENTRIES     2
#define TICKETS     1
#define HANDLES     3
#define PUTS        2
#define LOSSES      1
#define DUPLICATES  1
#define REVOKES     1
#define REFUSALS    1
#define TARGETS(p, to) :: p == 0 -> to = BIT(1)

#elif defined(GENERATIONS_END) /* W -> A, entries that reach the highest generation while old handles are about */
#define PROCESSES   2
#define INDICES     2
#define STARTS      3
#define REAPERS     1
#define ENTRIES     2
#define GENERATIONS 2
#define TICKETS     2
#define HANDLES     3
#define PUTS        4
#define DUPLICATES  2
#define REVOKES     1
#define TARGETS(p, to) :: p == 0 -> to = BIT(1)

#elif defined(TENANTS) /* W -> A, W -> B; A and B are tenants of one index */
#define INDICES     2
#define INDEX(p)    (p > 0)
#define STARTS      3
#define REAPERS     1
#define ENTRIES     1
#define TICKETS     1
#define HANDLES     2
#define PUTS        1
#define KILLS       1
#define LOSSES      1
#define CLOSES      1
#define TARGETS(p, to) :: p == 0 -> to = BIT(1) :: p == 0 -> to = BIT(2)

#elif defined(HEIRS) /* the same, and both send back: B's tickets lie where A's lay */
#define INDICES     2
#define INDEX(p)    (p > 0)
#define STARTS      3
#define REAPERS     0
#define ENTRIES     1
#define TICKETS     1
#define HANDLES     4
#define PUTS        1
#define KILLS       1
#define SENDERS     7
#define TARGETS(p, to) :: p == 0 -> to = BIT(1) :: p == 0 -> to = BIT(2) :: p > 0 -> to = BIT(0)

#elif defined(REAPERS_RACE) /* W -> A -> B, W and B reap, a reaper may die in the middle */
#define INDICES     3
#define STARTS      7
#define REAPERS     5
#define ENTRIES     1
#define TICKETS     1
#define HANDLES     1
#define PUTS        2
#define KILLS       2
#define TARGETS(p, to) :: p == 0 -> to = BIT(1)
#endif

#ifndef SENDERS
#define SENDERS     1
#endif
#ifndef PROCESSES
#define PROCESSES   3
#endif
#ifndef INDEX
#define INDEX(p)    (p)
#endif
#ifndef GENERATIONS
#define GENERATIONS 4
#endif
#ifndef KILLS
#define KILLS       1
#endif
#ifndef LOSSES
#define LOSSES      0
#endif
#ifndef DUPLICATES
#define DUPLICATES  0
#endif
#ifndef REVOKES
#define REVOKES     0
#endif
#ifndef REFUSALS
#define REFUSALS    0
#endif
#ifndef CLOSES
#define CLOSES      0
#endif
