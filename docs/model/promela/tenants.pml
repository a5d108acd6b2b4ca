/* tenants.pml - who has an index: join (rules 3, 5), leave (3), death (3), reaping (6, 7). */

/* Rule 2: by the holder of lock i, its tenant or a reaper: bit i out of every entry. */
inline clear_bit(i, e) {
    d_step { table[e].mask = table[e].mask & ~BIT(i); check_leases(e) }
}
#if ENTRIES == 1
#define clear_everywhere(i) clear_bit(i, 0)
#else
#define clear_everywhere(i) clear_bit(i, 0); clear_bit(i, 1)
#endif

/* Rule 3: a lock has one holder. */
#ifdef WITHOUT_LOCK
#define CAN_JOIN(p) true
#else
#define CAN_JOIN(p) (rows[INDEX(p)].lock == 0)
#endif

/* Rule 5: a dead writer's ring is frozen, and joined by nobody new (7). */
#ifdef WITHOUT_WRITER_CHECK
#define WRITER_HOLDS true
#else
#define WRITER_HOLDS (rows[INDEX(WRITER)].lock != 0)
#endif

/* Rule 5: a free byte; the writer's byte held; clear; wipe the tickets, whose sequences go on; epoch + 1; id last. */
inline begin_join(p, frozen) {
    rows[INDEX(p)].lock = p + 1;
    frozen = !process[WRITER].alive
}
inline join(p, frozen) {
    if
    :: d_step { !WRITER_HOLDS -> rows[INDEX(p)].lock = 0; frozen = 0 }
    :: atomic { WRITER_HOLDS -> frozen_ring_joined = frozen; assert(!frozen_ring_joined); frozen = 0 };
#ifndef WITHOUT_SCRUB
       clear_everywhere(INDEX(p));
#endif
#ifndef WITHOUT_WIPE
       d_step {
        i_ = 0;
        do
        :: i_ < TICKETS ->
            TICKET(p, i_).awaited = 0;
#ifdef WITHOUT_SEQUENCE_KEPT
            TICKET(p, i_).sequence = 0;
#endif
            i_++
        :: else -> break
        od
       };
#endif
#ifdef WITHOUT_ID_LAST
       rows[INDEX(p)].id = p + 1;
       d_step { rows[INDEX(p)].epoch++; process[p].joined = true }
#else
#ifndef WITHOUT_VACANT_ROW
       rows[INDEX(p)].id = 0; /* or a sender finds the dead tenant's id with the new tenant's epoch */
#endif
#ifndef WITHOUT_EPOCH
       rows[INDEX(p)].epoch++;
#endif
       d_step { rows[INDEX(p)].id = p + 1; rows[INDEX(p)].unmappable = false; process[p].joined = true }
#endif
    fi
}

/* Rule 3: close only stops new calls; others no longer find us, and what they sent us is settled. */
#define CAN_CLOSE(p) (ABLE(p) && p != WRITER && closes && MUTEX(p))
inline begin_close(p) {
    closes--;
    process[p].closed = true;
    rows[INDEX(p)].id = 0
}
inline close(p) {
#ifdef WITHOUT_LASTING_LOCK
    d_step { rows[INDEX(p)].epoch++; rows[INDEX(p)].lock = 0 }
#else
    rows[INDEX(p)].epoch++
#endif
}

/* Rule 3: the lock lasts until the last lease and ticket have ended. */
#if ENTRIES == 1
#define HOLDS_NOTHING(p) !USED(p, 0)
#else
#define HOLDS_NOTHING(p) (!USED(p, 0) && !USED(p, 1))
#endif
#define CAN_LEAVE(p) (process[p].closed && process[p].joined && HOLDS_NOTHING(p) && MUTEX(p))
inline leave(p) {
    process[p].joined = false;
    if
    :: rows[INDEX(p)].lock == p + 1 -> rows[INDEX(p)].lock = 0
    :: else
    fi
}

/* Rule 6: take the lock on a fresh description, never for an index of this process, and hold it; clear; unlock.
 * Rule 7: never the writer's. */
#ifdef WITHOUT_FROZEN
#define REAPABLE(i) true
#else
#define REAPABLE(i) (i != INDEX(WRITER))
#endif
#ifdef WITHOUT_FRESH_DESCRIPTION
#define FREE_FOR(p, i) (rows[i].lock == 0 || rows[i].lock == p + 1)
#else
#define FREE_FOR(p, i) (rows[i].lock == 0)
#endif
#if ENTRIES == 1
#define HAS_A_BIT(i) (table[0].mask & BIT(i))
#else
#define HAS_A_BIT(i) ((table[0].mask | table[1].mask) & BIT(i))
#endif
#define CAN_REAP(p, i) \
    (process[p].joined && (BIT(p) & REAPERS) && REAPABLE(i) && FREE_FOR(p, i) && (rows[i].id || HAS_A_BIT(i)))

#ifdef WITHOUT_HELD_REAP
#define HOLD(p, i) skip
#else
#define HOLD(p, i) rows[i].lock = p + 1
#endif
inline reap(p, i) {
    clear_everywhere(i);
    d_step {
        rows[i].id = 0;
        if
        :: rows[i].lock == p + 1 -> rows[i].lock = 0
        :: else
        fi;
        i = 0
    }
}

/* SIGKILL: whatever was private is gone, and the kernel frees every lock. */
inline kill(p) {
    process[p].alive = false;
    process[p].joined = false;
    process[p].closed = false;
    process[p].locked = false;
    process[p].arriving = 0;
    process[p].arrived = 0;
    process[p].revoked = 0;
    process[p].lost = 0;
    process[p].opens = false;
    i_ = 0;
    do
    :: i_ < ENTRIES ->
        ON(p, i_).count = 0; ON(p, i_).in_flight = 0; ON(p, i_).generation = 0; ON(p, i_).tensors = 0;
        i_++
    :: else -> break
    od;
    i_ = 0;
    do
    :: i_ < TICKETS ->
        OUT(p, i_).unsettled = false; OUT(p, i_).entry = 0;
        q_ = 0;
        do
        :: q_ < INDICES -> OUT(p, i_).epoch[q_] = 0; q_++
        :: else -> break
        od;
        i_++
    :: else -> break
    od;
    i_ = 0;
    do
    :: i_ < INDICES ->
        if
        :: rows[i_].lock == p + 1 -> rows[i_].lock = 0
        :: else
        fi;
        i_++
    :: else -> break
    od;
    kills--
}
