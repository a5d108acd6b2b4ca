/* tickets.pml - what happens to a ticket: share (rules 10 to 12), revoke (17), settle (16, 18). */

/* Rule 10: only with a local count of 1 and more, held during the call: the mutex is. */
#ifdef WITHOUT_SENDERS_COUNT
#define MAY_SHARE(p, e) (ON(p, e).generation)
#else
#define MAY_SHARE(p, e) (ON(p, e).count && ON(p, e).tensors)
#endif

#define CAN_SHARE(p, e) (ABLE(p) && (BIT(p) & SENDERS) && made < HANDLES && MAY_SHARE(p, e) && MUTEX(p))

/* Rule 11: no ticket free: inline. */
#ifdef WITHOUT_INLINE
#define FREE_TICKET(p) (OUT(p, 0).unsettled && !OUT(p, TICKETS - 1).unsettled -> TICKETS - 1 : 0)
#else
#define FREE_TICKET(p) (!OUT(p, 0).unsettled -> 0 : (!OUT(p, TICKETS - 1).unsettled -> TICKETS - 1 : TICKETS))
#endif

/* Rule 11: remember each reader's epoch, as it was when the id matched. */
inline remember_epochs(p, t) {
    i_ = 0;
    do
    :: i_ < INDICES -> OUT(p, t).epoch[i_] = rows[i_].epoch; i_++
    :: else -> break
    od
}
#ifdef WITHOUT_EPOCH_AT_MATCH
#define SAME_EPOCH(p, t, i) true
#else
#define SAME_EPOCH(p, t, i) (OUT(p, t).epoch[i] == rows[i].epoch)
#endif

/* Rule 10: addressed by id, looked up in this ring's rows. Not there: inline. Rule 23: neither if it cannot map. */
#define FOUND(p, t, to, q) \
    (!(to & BIT(q)) || (rows[INDEX(q)].id == q + 1 && !rows[INDEX(q)].unmappable && SAME_EPOCH(p, t, INDEX(q))))
#if PROCESSES == 2
#define ALL_FOUND(p, t, to) (FOUND(p, t, to, 0) && FOUND(p, t, to, 1))
#else
#define ALL_FOUND(p, t, to) (FOUND(p, t, to, 0) && FOUND(p, t, to, 1) && FOUND(p, t, to, 2))
#endif

inline send(to, h) {
    q_ = 0;
    do
    :: q_ < PROCESSES ->
        if
        :: to & BIT(q_) -> process[q_].arriving = process[q_].arriving | BIT(h)
        :: else
        fi;
        q_++
    :: else -> break
    od
}

/* Rule 11: (sequence, those that have still to open), and one more in flight. */
inline take_ticket(p, t, e, to) {
    TICKET(p, t).sequence++;
    TICKET(p, t).awaited = 0;
    q_ = 0;
    do
    :: q_ < PROCESSES ->
        if
        :: to & BIT(q_) -> TICKET(p, t).awaited = TICKET(p, t).awaited | BIT(INDEX(q_))
        :: else
        fi;
        q_++
    :: else -> break
    od;
    OUT(p, t).unsettled = true;
    OUT(p, t).entry = e;
    ON(p, e).in_flight++
}

/* Rule 12. */
inline make_handle(p, t, e, to, h) {
    handles[h].index = INDEX(p);
    handles[h].ticket = t;
    handles[h].sequence = TICKET(p, t).sequence;
    handles[h].entry = e;
    handles[h].generation = ON(p, e).generation;
    handles[h].process = p;
    handles[h].to = to;
    handles[h].payload = table[e].payload
}

#ifdef WITHOUT_HELD_COUNT
#define SHARE_LOCK(p)   skip
#define SHARE_UNLOCK(p) skip
#else
#define SHARE_LOCK(p)   LOCK(p)
#define SHARE_UNLOCK(p) UNLOCK(p)
#endif

/* The handle leaves when its ticket stands, not before. */
inline begin_share(p, e, to, t, h) {
    SHARE_LOCK(p);
    h = made;
    made++;
    t = FREE_TICKET(p);
    if
    :: t < TICKETS -> remember_epochs(p, t)
    :: else
    fi
}
inline share(p, e, to, t, h) {
    if
    :: d_step {
        t < TICKETS && ALL_FOUND(p, t, to) -> skip;
#ifdef WITHOUT_TICKET_FIRST
        make_handle(p, t, e, to, h);
        handles[h].sequence++;
        send(to, h)
#endif
       };
       d_step {
#ifdef WITHOUT_EPOCH_AT_MATCH
        remember_epochs(p, t);
#endif
        take_ticket(p, t, e, to);
#ifndef WITHOUT_TICKET_FIRST
        make_handle(p, t, e, to, h);
        send(to, h);
#endif
        SHARE_UNLOCK(p);
        e = 0; to = 0; t = 0; h = 0
       }
    :: d_step {
        t == TICKETS || !ALL_FOUND(p, t, to) ->
        if
        :: t < TICKETS && !OUT(p, t).unsettled -> forget_ticket(p, t)
        :: else
        fi;
        SHARE_UNLOCK(p); e = 0; to = 0; t = 0; h = 0
       }
    fi
}

/* Rule 17: a reader will not open: its message was lost, or its request was aborted. */
#ifdef WITHOUT_REVOKE
#define CAN_REVOKE(p, h, q) false
#else
#define CAN_REVOKE(p, h, q)                                                                          \
    ((handles[h].to & BIT(q)) && handles[h].process == p && OUT(p, handles[h].ticket).unsettled           \
     && TICKET(p, handles[h].ticket).sequence == handles[h].sequence                                 \
     && (TICKET(p, handles[h].ticket).awaited & BIT(INDEX(q))) && ((process[q].lost & BIT(h)) || revokes) && MUTEX(p))
#endif

inline revoke(p, h, q) {
    if
    :: process[q].lost & BIT(h) -> process[q].lost = process[q].lost & ~BIT(h)
    :: else -> revokes--
    fi;
    process[q].revoked = process[q].revoked | BIT(h);
    TICKET(p, handles[h].ticket).awaited = TICKET(p, handles[h].ticket).awaited & ~BIT(INDEX(q));
    h = 0; q = 0
}

inline forget_ticket(p, t) {
    OUT(p, t).unsettled = false;
    OUT(p, t).entry = 0;
    i_ = 0;
    do
    :: i_ < INDICES -> OUT(p, t).epoch[i_] = 0; i_++
    :: else -> break
    od
}

/* Rule 16: settled when every bit is taken, or the reader's lock is free, or its epoch has changed. These last for
 * ever or read as "not yet", so one look at all of them is as good as one after the other. */
#ifdef WITHOUT_DEAD_READERS
#define DEAD(i) false
#else
#define DEAD(i) (rows[i].lock == 0)
#endif
#ifdef WITHOUT_EPOCHS
#define GONE(p, t, i) false
#else
#define GONE(p, t, i) (rows[i].epoch != OUT(p, t).epoch[i])
#endif
#define TAKEN(p, t, i) (!(TICKET(p, t).awaited & BIT(i)) || DEAD(i) || GONE(p, t, i))
#if INDICES == 2
#define ALL_TAKEN(p, t) (TAKEN(p, t, 0) && TAKEN(p, t, 1))
#else
#define ALL_TAKEN(p, t) (TAKEN(p, t, 0) && TAKEN(p, t, 1) && TAKEN(p, t, 2))
#endif

/* Rule 18: by the helper thread, so that an idle process settles too. */
#ifdef WITHOUT_HELPER
#define CAN_SETTLE(p, t) false
#else
#define CAN_SETTLE(p, t) (OUT(p, t).unsettled && ALL_TAKEN(p, t) && MUTEX(p))
#endif

inline begin_settle(p, t, e, stays) {
    LOCK(p);
    e = OUT(p, t).entry;
    forget_ticket(p, t);
    forget_handles();
    ON(p, e).in_flight--;
    stays = STAYS(p, e);
    t = 0
}
