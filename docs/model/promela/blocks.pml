/* blocks.pml - what happens to a block: put (rule 8), open (13, 14), the end of a lease (9, 15). */

/* Rule 2: a bit goes out by compare-and-swap, in one transition. */
#ifdef WITHOUT_CAS
#define BIT_OUT(e, i) table[e].mask = seen & ~BIT(i); seen = 0; check_leases(e)
#else
#define BIT_OUT(e, i) table[e].mask = table[e].mask & ~BIT(i); check_leases(e)
#endif

/* Rule 8: a live entry whose mask is 0 goes back to the allocator; nothing else frees. */
#ifdef WITHOUT_HARVEST
#define HARVESTABLE(e) (!USED(WRITER, e))
#else
#define HARVESTABLE(e) (table[e].mask == 0)
#endif

/* Rule 1: an entry at the highest generation is retired. */
#ifdef WITHOUT_RETIREMENT
#define RETIRED(e) false
#else
#define RETIRED(e) (table[e].generation == GENERATIONS)
#endif

#define CAN_PUT(p, e) (p == WRITER && puts < PUTS && MUTEX(p) && !RETIRED(e) && (!table[e].live || HARVESTABLE(e)))

/* Rule 8: harvest; take an entry; store the fields; store the word. Rule 2's exception: no compare-and-swap. */
inline begin_put(p, e) {
    LOCK(p);
    table[e].live = false
}
inline put(p, e) {
    d_step { check_reuse(e); puts++; table[e].payload = puts };
    d_step {
        table[e].generation = (table[e].generation == GENERATIONS -> 1 : table[e].generation + 1);
        table[e].mask = BIT(INDEX(p));
        table[e].live = true;
        ON(p, e).generation = table[e].generation;
        ON(p, e).count = 1;
        ON(p, e).tensors = 1;
        check_leases(e);
        UNLOCK(p);
        e = 0
    }
}

/* Rule 15: own bit out when the count is 0 and no unsettled ticket of ours is on this entry. */
#ifdef WITHOUT_IN_FLIGHT
#define STAYS(p, e) (ON(p, e).count)
#else
#define STAYS(p, e) USED(p, e)
#endif

/* Rule 9: count and bit change together, under the mutex. Rule 18: what the GPU still reads ends when it has read it,
 * in the helper thread: `tensors` counts the GPU's use too. */
#define CAN_END(p, e) (ON(p, e).count && ON(p, e).tensors && MUTEX(p))

#ifdef WITHOUT_DEFERRAL
#define END_USE(p, e) skip
#define END_USE_LATE(p, e) ON(p, e).tensors--
#else
#define END_USE(p, e) ON(p, e).tensors--
#define END_USE_LATE(p, e) skip
#endif

/* The first half of an end: the count, under the mutex. */
inline begin_end(p, e, stays) {
    LOCK(p);
    ON(p, e).count--;
    END_USE(p, e);
    stays = STAYS(p, e)
}

/* The second half: the bit. */
inline let_go(p, e, stays) {
#ifdef WITHOUT_CAS
    seen = table[e].mask;
#endif
    d_step {
        if
        :: !stays -> BIT_OUT(e, INDEX(p))
        :: else
        fi;
        END_USE_LATE(p, e);
        forget_generation(p, e);
        UNLOCK(p);
        stays = 0;
        e = 0
    }
}

/* Rule 13 (a): own bit in, requiring the same generation and mask != 0. */
#ifdef WITHOUT_GENERATION
#define SAME_GENERATION(generation_, h) true
#else
#define SAME_GENERATION(generation_, h) (generation_ == handles[h].generation)
#endif
#ifdef WITHOUT_LIVE_MASK
#define LIVE(e) true
#else
#define LIVE(e) (table[e].mask != 0)
#endif

#define LEASED  1
#define STALE   2
#define REFUSED 3
inline take_bit(p, h, e, outcome) {
    if
    :: ON(p, e).count ->
        outcome = (SAME_GENERATION(ON(p, e).generation, h) -> LEASED : STALE)
    :: else ->
        if
        :: SAME_GENERATION(table[e].generation, h) && LIVE(e) ->
            table[e].mask = table[e].mask | BIT(INDEX(p));
            ON(p, e).generation = table[e].generation;
            outcome = LEASED
        :: else -> outcome = STALE
        fi
    fi
}

/* Rule 13 (d): own bit out of the ticket, if its sequence is the handle's. */
#ifdef WITHOUT_SEQUENCE
#define SAME_SEQUENCE(h) true
#else
#define SAME_SEQUENCE(h) (tickets[handles[h].index * TICKETS + handles[h].ticket].sequence == handles[h].sequence)
#endif
#ifdef WITHOUT_EVERY_BIT
#define STILL_AWAITED(p, h) 0
#else
#define STILL_AWAITED(p, h) (tickets[handles[h].index * TICKETS + handles[h].ticket].awaited & ~BIT(INDEX(p)))
#endif
inline acknowledge(p, h) {
    if
    :: SAME_SEQUENCE(h) -> tickets[handles[h].index * TICKETS + handles[h].ticket].awaited = STILL_AWAITED(p, h)
    :: else
    fi
}

#ifdef WITHOUT_REFUSALS_ACKNOWLEDGED
#define ACKNOWLEDGE(p, h, outcome)       \
    if                                   \
    :: outcome == LEASED -> acknowledge(p, h) \
    :: else                              \
    fi
#else
#define ACKNOWLEDGE(p, h, outcome) acknowledge(p, h)
#endif

/* Rule 13: a failure undoes (a). */
#ifdef WITHOUT_UNDO
#define UNDO(p, e) skip
#else
#define UNDO(p, e) undo(p, e)
#endif
inline undo(p, e) {
    d_step {
        if
        :: !STAYS(p, e) -> table[e].mask = table[e].mask & ~BIT(INDEX(p)); check_leases(e)
        :: else
        fi;
        forget_generation(p, e)
    }
}

#ifdef WITHOUT_COUNT
#define COUNT_OPENED(p, e) ON(p, e).count = 1
#else
#define COUNT_OPENED(p, e) ON(p, e).count++
#endif

#define CAN_OPEN(p, h) (ABLE(p) && (process[p].arriving & BIT(h)) && MUTEX(p))

inline end_open(p, h, e, again, outcome) { /* (d) */
    ACKNOWLEDGE(p, h, outcome);
    forget_handles();
    UNLOCK(p);
    process[p].opens = false;
    h = 0; e = 0; again = 0; outcome = 0
}

/* Rule 13, in its order. Rule 14: the message may come again, then it is opened again. The mutants that change the
 * order move (c) or (d) to the front. */
inline begin_open(p, h, e, again, outcome) {
    LOCK(p);
    e = handles[h].entry;
    process[p].opens = true;
    again = (process[p].arrived & BIT(h)) != 0;
#if defined(WITHOUT_LEASE_FIRST)
    d_step { check_read(h, e) }
#elif defined(WITHOUT_ACKNOWLEDGE_LAST)
    d_step { acknowledge(p, h) }
#else
    d_step { take_bit(p, h, e, outcome) } /* (a) */
#endif
}
inline open(p, h, e, again, outcome) {
#if defined(WITHOUT_LEASE_FIRST) || defined(WITHOUT_ACKNOWLEDGE_LAST)
    d_step { take_bit(p, h, e, outcome) };
#endif
    if
    :: d_step {
        outcome == LEASED -> /* (b), (c) */
        COUNT_OPENED(p, e);
        ON(p, e).tensors++;
        check_leases(e);
        check_read(h, e)
       }
    :: d_step { /* (c) finds what cannot be; or rule 23, a segment that cannot be mapped. (a) is undone */
        outcome == LEASED && refusals -> refusals--;
        outcome = REFUSED;
        rows[INDEX(p)].unmappable = true
       };
       UNDO(p, e)
    :: d_step { outcome == STALE -> check_stale(p, h, again) }
    fi;
    if
    :: d_step { process[p].arriving = process[p].arriving & ~BIT(h); end_open(p, h, e, again, outcome) }
    :: d_step {
        duplicates -> duplicates--;
        process[p].arrived = process[p].arrived | BIT(h);
        end_open(p, h, e, again, outcome)
       }
    fi
}
