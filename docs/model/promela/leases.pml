/* leases.pml - the lease protocol, written from its rules and from nothing else: processes, their threads, what may
 * befall them. The README beside docs/model says what is covered and how to run it.
 *
 *     bounds.pml   the configurations: -DFORWARDING and so on
 *     shared.pml   memory, shared and private; rules 1, 3, 9, 11, 12
 *     checks.pml   the properties
 *     blocks.pml   rules 2, 8, 9, 13, 14, 15
 *     tickets.pml  rules 10, 11, 12, 16, 17, 18
 *     tenants.pml  rules 3, 5, 6, 7
 *
 * -DWITHOUT_... takes one rule away. A process is up to three threads: the application; the helper, which settles and
 * ends what must end later; and one that reaps. The first two share its mutex. It dies before any transition, with all
 * of them. What operation x does in its first transition, together with the choice of it, is begin_x. */
#include "bounds.pml"
#include "shared.pml"
#include "checks.pml"
#include "blocks.pml"
#include "tickets.pml"
#include "tenants.pml"

/* Choices. `can` is a condition on process p and what is chosen. */
#define PICK_OF_1(can, p, x) can(p, 0)
#define PICK_OF_2(can, p, x) (can(p, 0) || can(p, 1)) -> if :: can(p, 0) -> x = 0 :: can(p, 1) -> x = 1 fi
#define PICK_OF_3(can, p, x) \
    (can(p, 0) || can(p, 1) || can(p, 2)) -> \
    if :: can(p, 0) -> x = 0 :: can(p, 1) -> x = 1 :: can(p, 2) -> x = 2 fi
#define PICK_OF_4(can, p, x) \
    (can(p, 0) || can(p, 1) || can(p, 2) || can(p, 3)) -> \
    if :: can(p, 0) -> x = 0 :: can(p, 1) -> x = 1 :: can(p, 2) -> x = 2 :: can(p, 3) -> x = 3 fi
#define PICK_OF(n, can, p, x)  PICK_OF_(n, can, p, x)
#define PICK_OF_(n, can, p, x) PICK_OF_##n(can, p, x)
#define PICK_ENTRY(can, p, e)   PICK_OF(ENTRIES, can, p, e)
#define PICK_TICKET(can, p, t)  PICK_OF(TICKETS, can, p, t)
#define PICK_HANDLE(can, p, h)  PICK_OF(HANDLES, can, p, h)
#define PICK_INDEX(can, p, i)   PICK_OF(INDICES, can, p, i)
#define PICK_PROCESS(can, x, q) PICK_OF(PROCESSES, can, x, q)
#define ANY_OF_1(can, a, b) can(a, b, 0)
#define ANY_OF_2(can, a, b) (can(a, b, 0) || can(a, b, 1))
#define ANY_OF_3(can, a, b) (can(a, b, 0) || can(a, b, 1) || can(a, b, 2))
#define ANY_OF_4(can, a, b) (ANY_OF_3(can, a, b) || can(a, b, 3))
#define ANY_OF(n, can, a, b)  ANY_OF_(n, can, a, b)
#define ANY_OF_(n, can, a, b) ANY_OF_##n(can, a, b)
#define CAN_REVOKE_ANY(p, h) ANY_OF(PROCESSES, CAN_REVOKE, p, h)
#define CAN_REVOKE_PICKED(p, q) CAN_REVOKE(p, h, q)

/* Calls of the application: one at a time. */
proctype application(byte p) {
    byte e, h, i, t, to, outcome;
    bit again, frozen;
    {
        if
        :: process[p].joined
        :: !process[p].joined;
end_outside: d_step { CAN_JOIN(p) -> begin_join(p, frozen) };
             join(p, frozen)
        fi;
end_idle: do
        :: atomic { PICK_ENTRY(CAN_PUT, p, e); d_step { begin_put(p, e) } }; put(p, e)
        :: atomic { PICK_ENTRY(CAN_SHARE, p, e); if TARGETS(p, to) fi; d_step { begin_share(p, e, to, t, h) } };
           share(p, e, to, t, h)
        :: atomic { PICK_HANDLE(CAN_OPEN, p, h); begin_open(p, h, e, again, outcome) }; open(p, h, e, again, outcome)
        :: atomic {
            PICK_HANDLE(CAN_REVOKE_ANY, p, h);
            PICK_PROCESS(CAN_REVOKE_PICKED, p, i);
            d_step { revoke(p, h, i) }
           }
        :: d_step { CAN_CLOSE(p) -> begin_close(p) }; close(p)
        :: d_step { CAN_LEAVE(p) -> leave(p) }; break
        od
    } unless { d_step { !process[p].alive -> e = 0; h = 0; i = 0; t = 0; to = 0; outcome = 0; again = 0; frozen = 0 } }
}

/* What must end later, and tickets: at any time, also while the application sleeps or is in a call. */
proctype helper(byte p) {
    byte e, t;
    bit stays;
#ifdef WITHOUT_CAS
    byte seen;
#endif
    {
end_idle: do
        :: atomic { PICK_ENTRY(CAN_END, p, e); d_step { begin_end(p, e, stays) } }; let_go(p, e, stays)
        :: atomic { PICK_TICKET(CAN_SETTLE, p, t); d_step { begin_settle(p, t, e, stays) } }; let_go(p, e, stays)
        od
    } unless { d_step { !process[p].alive -> e = 0; t = 0; stays = 0 } }
}

/* Reaps whenever it can: a third thread, so that its process can do anything meanwhile. */
proctype reaper(byte p) {
    byte i;
    {
end_idle: do
        :: atomic { PICK_INDEX(CAN_REAP, p, i); HOLD(p, i) }; reap(p, i)
        od
    } unless { d_step { !process[p].alive -> i = 0 } }
}

#define CAN_LOSE(x, q, h) (losses && (process[q].arriving & BIT(h)) && !process[q].opens)
#define CAN_LOSE_ANY(x, q) ANY_OF(HANDLES, CAN_LOSE, x, q)
#define CAN_LOSE_PICKED(q, h) CAN_LOSE(0, q, h)
#define CAN_KILL(x, q) (kills && process[q].alive)

/* What may befall them; none of it has to. */
active proctype world() {
    byte h, q;
end_idle: do
    :: atomic {
        PICK_PROCESS(CAN_LOSE_ANY, 0, q);
        PICK_HANDLE(CAN_LOSE_PICKED, q, h);
        d_step {
            losses--;
            process[q].arriving = process[q].arriving & ~BIT(h);
            process[q].lost = process[q].lost | BIT(h);
            h = 0; q = 0
        }
       }
    :: atomic { PICK_PROCESS(CAN_KILL, 0, q); d_step { kill(q); q = 0 } }
    :: kills -> kills = 0
    :: closes -> closes = 0
    od
}

init {
    byte p;
    atomic {
        do
        :: p < PROCESSES ->
            process[p].alive = true;
            if
            :: STARTS & BIT(p) ->
                process[p].joined = true;
                rows[INDEX(p)].lock = p + 1; rows[INDEX(p)].id = p + 1; rows[INDEX(p)].epoch = 1
            :: else
            fi;
            run application(p); run helper(p);
            if
            :: REAPERS & BIT(p) -> run reaper(p)
            :: else
            fi;
            p++
        :: else -> p = 0; break
        od
    };
    timeout -> d_step { check_all_came_back() }
}
