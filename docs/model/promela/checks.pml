/* checks.pml - the properties. A name becomes true where the property of that name is violated. */

bool use_without_lease, reuse_while_read, freed_memory_read, wrong_bytes_read, lost_handle, leak, frozen_ring_joined;

/* After each change: whoever lives and uses a block has its bit in the word, in the generation that it opened. */
inline check_leases(e) {
    q_ = 0;
    do
    :: q_ < PROCESSES ->
        use_without_lease = use_without_lease || (process[q_].alive && ON(q_, e).tensors
            && (!(table[e].mask & BIT(INDEX(q_))) || table[e].generation != ON(q_, e).generation));
        q_++
    :: else -> break
    od;
    assert(!use_without_lease)
}

/* The writer is about to store into a block: nobody may be reading it. */
inline check_reuse(e) {
    q_ = 0;
    do
    :: q_ < PROCESSES ->
        reuse_while_read = reuse_while_read || (process[q_].alive && ON(q_, e).tensors);
        q_++
    :: else -> break
    od;
    assert(!reuse_while_read)
}

/* What handle h names is being read. */
inline check_read(h, e) {
    freed_memory_read = !table[e].live;
    assert(!freed_memory_read);
    wrong_bytes_read = table[e].payload != handles[h].payload;
    assert(!wrong_bytes_read)
}

/* Handle h turned out stale at process p. That may be: rule 14, it came before; rule 17, it was revoked; rule 19, its
 * forwarder died. Rule 7: not because its writer died. */
inline check_stale(p, h, again) {
    lost_handle = (!again && !(process[p].revoked & BIT(h))
        && (process[handles[h].process].alive || handles[h].process == WRITER));
    assert(!lost_handle)
}

/* Nothing can happen any more, so all of it must have come back. */
inline check_all_came_back() {
    i_ = 0;
    do
    :: i_ < ENTRIES ->
        leak = leak || (process[WRITER].alive && table[i_].mask);
        q_ = 0;
        do
        :: q_ < PROCESSES ->
            leak = leak || (process[q_].alive
                && (process[q_].locked || USED(q_, i_) || (process[q_].joined && (table[i_].mask & BIT(INDEX(q_))))));
            q_++
        :: else -> break
        od;
        i_++
    :: else -> break
    od;
    assert(!leak)
}
