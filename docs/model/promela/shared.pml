/* shared.pml - what the processes have in common, what each has for itself, and what only the checks see.
 *
 * A byte stands for each half of a word. One transition (atomic, d_step) is at most one access to shared memory,
 * with the private work around it. A process is a number p; its place in the ring is INDEX(p). */

/* Rule 1: the word of an entry is a generation and a lease mask. */
typedef Entry {
    byte generation;
    byte mask;
    bool live;    /* in the writer's private memory: not harvested */
    byte payload; /* fields and bytes of the block: by which put they were stored */
};
Entry table[ENTRIES];

typedef Row {
    byte lock; /* rule 3: the process that holds the index's lock, plus 1; 0 is free. SIGKILL frees it */
    byte id;   /* of the tenant: its number plus 1; 0 is a vacant row */
    byte epoch;
    bool unmappable; /* rule 23 */
};
Row rows[INDICES];

/* Rule 11: the word of a ticket is a sequence and the indices that have still to open. */
typedef Ticket {
    byte sequence;
    byte awaited;
};
Ticket tickets[INDICES * TICKETS];

/* Rule 12: what a handle says. A message is a handle's number, in the mask of those that arrive at a process. */
typedef Handle {
    byte index; /* of the sender */
    byte ticket;
    byte sequence;
    byte entry;
    byte generation;
    byte process; /* the sender; only the checks see it, and the next two */
    byte to;      /* mask of the processes that it was sent to */
    byte payload; /* what must be read through it */
};
Handle handles[HANDLES];

/* Rule 9: what a process knows of an entry. */
typedef Local {
    byte count;
    byte in_flight;
    byte generation;
    byte tensors; /* how many the application or the GPU does use; only the checks see it */
};

/* Rule 11: the sender's side of a ticket. */
typedef Sent {
    bool unsettled;
    byte entry;
    byte epoch[INDICES];
};

typedef Private {
    bool alive;
    bool joined;
    bool closed; /* no new calls */
    bool locked; /* rule 9: the mutex of the attachment */
    Local on[ENTRIES];
    Sent out[TICKETS];
    byte arriving; /* messages on their way to this process, or being opened; and of these, which came before, */
    byte arrived;
    byte revoked; /* were revoked, */
    byte lost;    /* or lost, so that their sender will revoke them */
    bool opens;
};
Private process[PROCESSES];

byte puts, made; /* payloads stored and handles made so far */
byte kills = KILLS, losses = LOSSES, duplicates = DUPLICATES, revokes = REVOKES, refusals = REFUSALS, closes = CLOSES;

hidden byte i_, q_; /* loops within one transition */

#define WRITER       0
#define BIT(i)       (1 << (i))
#define TICKET(p, t) tickets[INDEX(p) * TICKETS + (t)]
#define ON(p, e)     process[p].on[e]
#define OUT(p, t)    process[p].out[t]
#define USED(p, e)   (ON(p, e).count || ON(p, e).in_flight)
#define ABLE(p)      (process[p].joined && !process[p].closed)

#ifdef WITHOUT_MUTEX
#define MUTEX(p)  true
#define LOCK(p)   skip
#define UNLOCK(p) skip
#else
#define MUTEX(p)  (!process[p].locked)
#define LOCK(p)   process[p].locked = true
#define UNLOCK(p) process[p].locked = false
#endif

#ifdef WITHOUT_SENDERS_COUNT
#define SHARES_WITHOUT_COUNT true
#else
#define SHARES_WITHOUT_COUNT false
#endif

/* What nothing can depend on any more is set to 0, so that states that differ in nothing else are one. */
inline forget_generation(p, e) {
    if
    :: !USED(p, e) && !SHARES_WITHOUT_COUNT -> ON(p, e).generation = 0
    :: else
    fi
}

#if PROCESSES == 2
#define ARRIVES(h) ((process[0].arriving | process[1].arriving) & BIT(h))
#else
#define ARRIVES(h) ((process[0].arriving | process[1].arriving | process[2].arriving) & BIT(h))
#endif
inline forget_handles() {
    i_ = 0;
    do
    :: i_ < HANDLES ->
        if
        :: !ARRIVES(i_) && handles[i_].sequence && !(OUT(handles[i_].process, handles[i_].ticket).unsettled
            && TICKET(handles[i_].process, handles[i_].ticket).sequence == handles[i_].sequence) ->
            handles[i_].index = 0; handles[i_].ticket = 0; handles[i_].sequence = 0; handles[i_].entry = 0;
            handles[i_].generation = 0; handles[i_].process = 0; handles[i_].to = 0; handles[i_].payload = 0;
            q_ = 0;
            do
            :: q_ < PROCESSES ->
                process[q_].arrived = process[q_].arrived & ~BIT(i_);
                process[q_].revoked = process[q_].revoked & ~BIT(i_);
                process[q_].lost = process[q_].lost & ~BIT(i_);
                q_++
            :: else -> break
            od
        :: else
        fi;
        i_++
    :: else -> break
    od
}
