/* bounds.pml - the configurations. Each is searched completely within its bounds; -DFULL has the larger ones.
 *
 * W is the writer, process 0; A and B are readers, 1 and 2. STARTS, SENDERS and REAPERS are masks of processes: who is
 * joined from the beginning, who shares, who reaps. TARGETS are the choices to whom p shares, as masks of processes.
 * KILLS to CLOSES: how often each may befall, and to anybody at any time. */

#ifdef FULL
#define MORE(few, many) many
#else
#define MORE(few, many) few
#endif

#if defined(FORWARDING) /* W -> A -> B */
#define SENDERS     (BIT(0) | BIT(1))
#define TARGETS(p, to) :: p == 0 -> to = BIT(1) :: p == 1 -> to = BIT(2)
#define HANDLES     2
#define PUTS        2
#define KILLS       MORE(1, 2)
#define LOSSES      1
#define DUPLICATES  1
#define REVOKES     1

#elif defined(BROADCAST) /* W -> A and B by one ticket, or A alone */
#define TARGETS(p, to) :: p == 0 -> to = BIT(1) | BIT(2) :: p == 0 -> to = BIT(1)
#define HANDLES     2
#define PUTS        1
#define KILLS       1
#define LOSSES      1
#define DUPLICATES  MORE(0, 1)
#define REVOKES     1

#elif defined(CIRCLE) /* W -> A -> W */
#define PROCESSES   2
#define SENDERS     (BIT(0) | BIT(1))
#define TARGETS(p, to) :: p == 0 -> to = BIT(1) :: p == 1 -> to = BIT(0)
#define HANDLES     3
#define PUTS        MORE(1, 2)
#define KILLS       1
#define DUPLICATES  1
#define REVOKES     1

#elif defined(EXHAUSTION) /* W -> A, more handles than tickets; an open may be refused */
#define PROCESSES   2
#define TARGETS(p, to) :: p == 0 -> to = BIT(1)
#define TICKETS     MORE(1, 2)
#define HANDLES     3
#define PUTS        2
#define KILLS       1
#define LOSSES      1
#define REVOKES     1
#define REFUSALS    1

#elif defined(WRAP) /* W -> A, entries reach the highest generation while old messages are about */
#define PROCESSES   2
#define TARGETS(p, to) :: p == 0 -> to = BIT(1)
#define ENTRIES     MORE(1, 2)
#define GENERATIONS 2
#define HANDLES     3
#define PUTS        MORE(3, 4)
#define KILLS       MORE(1, 0)
#define DUPLICATES  2
#define REVOKES     1

#elif defined(TENANTS) /* W -> A, W -> B: A and B are tenants of one index, the one after the other */
#define INDICES     2
#define INDEX(p)    (p > 0)
#define STARTS      (BIT(0) | BIT(1))
#define TARGETS(p, to) :: p == 0 -> to = BIT(1) :: p == 0 -> to = BIT(2)
#define HANDLES     2
#define PUTS        1
#define KILLS       MORE(1, 2)
#define LOSSES      1
#define CLOSES      1

#elif defined(HEIRS) /* the same, and both send back: B's tickets lie where A's lay; nobody reaps */
#define INDICES     2
#define INDEX(p)    (p > 0)
#define STARTS      (BIT(0) | BIT(1))
#define SENDERS     (BIT(0) | BIT(1) | BIT(2))
#define REAPERS     0
#define TARGETS(p, to) :: p == 0 -> to = BIT(1) :: p == 0 -> to = BIT(2) :: p > 0 -> to = BIT(0)
#define HANDLES     4
#define PUTS        1
#define KILLS       1
#define DUPLICATES  MORE(0, 1)

#elif defined(REAPING) /* W -> A and B; W and B reap, and may die while they do */
#define REAPERS     (BIT(0) | BIT(2))
#define TARGETS(p, to) :: p == 0 -> to = BIT(1) | BIT(2)
#define HANDLES     1
#define PUTS        MORE(1, 2)
#define KILLS       2
#else
#error "choose a configuration: -DFORWARDING, -DBROADCAST, ..."
#endif

#ifndef PROCESSES
#define PROCESSES   3
#endif
#ifndef INDICES
#define INDICES     PROCESSES
#endif
#ifndef INDEX
#define INDEX(p)    (p)
#endif
#ifndef STARTS
#define STARTS      (BIT(0) | BIT(1) | BIT(2))
#endif
#ifndef SENDERS
#define SENDERS     BIT(0)
#endif
#ifndef REAPERS
#define REAPERS     BIT(0)
#endif
#ifndef ENTRIES
#define ENTRIES     1
#endif
#ifndef GENERATIONS
#define GENERATIONS 4
#endif
#ifndef TICKETS
#define TICKETS     1
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
