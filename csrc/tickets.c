#include "tickets.h"

#include "kill_points.h"
#include "wait.h"

static _Atomic uint64_t *ticket_word(const shmt_attachment *attachment, uint32_t index, uint32_t ticket) {
    return attachment->tickets + (size_t)index * SHMT_TICKETS + ticket;
}

void shmt_ring_bells(shmt_attachment *attachment) {
    for (uint32_t r = 0; r < SHMT_INDICES; r++) {
        shmt_row *row = &attachment->rows[r];
        if (!atomic_load_explicit(&row->epoch, memory_order_relaxed)) continue; /* never had a tenant */
        atomic_fetch_add_explicit(&row->bell, 1, memory_order_release);
        SHMT_KILL_POINT("bell.raised");
        shmt_wake(&row->bell);
    }
}

void shmt_ticket_acknowledge(shmt_attachment *attachment, uint32_t sender, uint32_t ticket, uint32_t sequence) {
    _Atomic uint64_t *word = ticket_word(attachment, sender, ticket);
    uint64_t before = atomic_load_explicit(word, memory_order_acquire);
    do {
        if (shmt_word_high(before) != sequence || !(shmt_word_mask(before) & shmt_bit(attachment->index))) return;
        /* SYNC F-TICKET: our lease bit is in before the sender can see this and take its own out. */
    } while (!atomic_compare_exchange_weak_explicit(word, &before, before & ~(uint64_t)shmt_bit(attachment->index),
                                                    memory_order_acq_rel, memory_order_acquire));
    SHMT_KILL_POINT("open.acknowledged");
    /* Somebody waits for room: let the sender end its lease now instead of at its next call. */
    if (atomic_load_explicit(&attachment->header->waiting, memory_order_seq_cst)) {
        atomic_fetch_add_explicit(&attachment->rows[sender].bell, 1, memory_order_release);
        SHMT_KILL_POINT("bell.raised");
        shmt_wake(&attachment->rows[sender].bell);
    }
}

/* Index r has another tenant than when we last looked: what we addressed to the former one is settled.
 * Runs before anything is addressed to the new one (rules 11 and 16, one epoch an index instead of one a
 * ticket: between two looks every open ticket with bit r is addressed to the tenant seen at the first). */
static void see_epoch(shmt_attachment *attachment, uint32_t r) {
    uint32_t epoch = atomic_load_explicit(&attachment->rows[r].epoch, memory_order_acquire);
    if (epoch == attachment->epoch_seen[r]) return;
    for (uint32_t i = 0; i < attachment->open_length; i++) {
        atomic_fetch_and_explicit(ticket_word(attachment, attachment->index, attachment->open_tickets[i]),
                                  ~(uint64_t)shmt_bit(r), memory_order_relaxed);
        SHMT_KILL_POINT("settle.epoch");
    }
    attachment->epoch_seen[r] = epoch;
}

static uint32_t find_dead(shmt_attachment *attachment) {
    uint32_t awaited = 0, dead = 0;
    for (uint32_t r = 0; r < SHMT_INDICES; r++) see_epoch(attachment, r);
    for (uint32_t i = 0; i < attachment->open_length; i++)
        awaited |= shmt_word_mask(atomic_load_explicit(
            ticket_word(attachment, attachment->index, attachment->open_tickets[i]), memory_order_relaxed));
    for (uint32_t r = 0; r < SHMT_INDICES; r++)
        if (awaited & shmt_bit(r) && r != attachment->index && !shmt_lock_is_held(&attachment->file, r)) dead |= shmt_bit(r);
    return dead;
}

static void close_ticket(shmt_attachment *attachment, uint32_t position) {
    uint16_t ticket = attachment->open_tickets[position];
    shmt_sent *sent = &attachment->sent[ticket];
    attachment->open_tickets[position] = attachment->open_tickets[--attachment->open_length];
    attachment->free_tickets[attachment->free_length++] = ticket;
    sent->open = false;
    attachment->locals[sent->entry].in_flight--;
    SHMT_KILL_POINT("settle.closed");
    shmt_lease_release_if_unused(attachment, sent->entry);
}

uint32_t shmt_settle(shmt_attachment *attachment, uint32_t limit, bool liveness) {
    if (attachment->left || attachment->open_length == 0) return 0;
    uint32_t dead = liveness ? find_dead(attachment) : 0;
    if (limit >= attachment->open_length) { /* all: from the first on, for what closes is replaced by the last */
        limit = attachment->open_length;
        attachment->settle_cursor = 0;
    }
    while (limit-- && attachment->open_length) {
        if (attachment->settle_cursor >= attachment->open_length) attachment->settle_cursor = 0;
        uint16_t ticket = attachment->open_tickets[attachment->settle_cursor];
        /* SYNC F-TICKET */
        uint64_t word = atomic_load_explicit(ticket_word(attachment, attachment->index, ticket), memory_order_acquire);
        const shmt_sent *sent = &attachment->sent[ticket];
        /* Another sequence than ours: somebody stored into our row. Who opens late is told that it is too late. */
        if (shmt_word_high(word) == sent->sequence && shmt_word_mask(word) & sent->readers & ~dead)
            attachment->settle_cursor++;
        else
            close_ticket(attachment, attachment->settle_cursor);
    }
    return attachment->open_length;
}

/* The row of a reader that may be sent handles. Its epoch is looked at before and after its id, so that the
 * id that matched is the tenant of the epoch we remember. */
static shmt_status find_reader(shmt_attachment *attachment, shmt_peer_id id, uint32_t *index) {
    for (uint32_t r = 0; r < SHMT_INDICES; r++) {
        shmt_row *row = &attachment->rows[r];
        /* SYNC E-JOIN */
        if (atomic_load_explicit(&row->id_high, memory_order_acquire) != id.high) continue;
        see_epoch(attachment, r);
        if (atomic_load_explicit(&row->id_low, memory_order_acquire) != id.low ||
            atomic_load_explicit(&row->id_high, memory_order_acquire) != id.high ||
            atomic_load_explicit(&row->epoch, memory_order_acquire) != attachment->epoch_seen[r])
            continue;
        if (r != attachment->index && !shmt_lock_is_held(&attachment->file, r)) return SHMT_NOT_JOINED; /* it died */
        *index = r;
        return atomic_load_explicit(&row->unmappable, memory_order_relaxed) ? SHMT_UNMAPPABLE : SHMT_OK;
    }
    return SHMT_NOT_JOINED;
}

static shmt_status share_locked(shmt_attachment *attachment, uintptr_t address, uint64_t nbytes,
                                const shmt_peer_id *readers, size_t count, shmt_reference *reference) {
    const shmt_span *span = shmt_span_find(attachment, address, nbytes);
    if (!span) return SHMT_NOT_FOUND;
    /* Before the readers are looked up: settling looks at epochs, and none may be looked at between a reader's
     * id and its ticket. */
    if (attachment->free_length == 0) shmt_settle(attachment, UINT32_MAX, true);
    if (attachment->free_length == 0) return SHMT_NO_TICKET;
    uint32_t mask = 0, index;
    for (size_t i = 0; i < count; i++) {
        shmt_status status = find_reader(attachment, readers[i], &index);
        if (status != SHMT_OK) return status;
        mask |= shmt_bit(index);
    }

    uint16_t ticket = attachment->free_tickets[--attachment->free_length];
    shmt_local *local = &attachment->locals[span->entry];
    _Atomic uint64_t *word = ticket_word(attachment, attachment->index, ticket);
    uint32_t sequence = shmt_word_high(atomic_load_explicit(word, memory_order_relaxed)) + 1;
    attachment->open_tickets[attachment->open_length++] = ticket;
    attachment->sent[ticket] = (shmt_sent){span->entry, local->generation, sequence, mask, true};
    local->in_flight++;
    /* SYNC B-SHARE: changes nothing (our bit is in), but orders the bytes before every open of this block:
     * an open reads this word with acquire, even when its handle came twice or its ticket is long gone. */
    atomic_fetch_or_explicit(&attachment->entries[span->entry].word, shmt_bit(attachment->index), memory_order_release);
    SHMT_KILL_POINT("share.ordered");
    atomic_store_explicit(word, shmt_word(sequence, mask), memory_order_release);
    SHMT_KILL_POINT("share.ticket");
    *reference = (shmt_reference){
        .entry = span->entry,
        .generation = local->generation,
        .offset = address - span->address,
        .nbytes = nbytes,
        .sender = attachment->index,
        .ticket = ticket,
        .sequence = sequence,
    };
    atomic_fetch_add_explicit(&attachment->rows[attachment->index].shared, 1, memory_order_relaxed);
    SHMT_KILL_POINT("count.shared");
    shmt_settler_start(attachment);
    return SHMT_OK;
}

shmt_status shmt_share(shmt_attachment *attachment, uintptr_t address, uint64_t nbytes, const shmt_peer_id *readers,
                       size_t count, shmt_reference *reference) {
    shmt_status status = shmt_check(attachment);
    if (status != SHMT_OK) return status;
    pthread_mutex_lock(&attachment->mutex);
    if (attachment->left) {
        status = SHMT_CLOSED;
    } else {
        shmt_settle(attachment, 8, false);
        status = share_locked(attachment, address, nbytes, readers, count, reference);
    }
    pthread_mutex_unlock(&attachment->mutex);
    return status;
}

/* Bits of those of `readers` that are in the table; an absent one has left, and its bit is settled anyway. */
static uint32_t bits_of(const shmt_attachment *attachment, const shmt_peer_id *readers, size_t count) {
    uint32_t mask = count ? 0 : UINT32_MAX;
    for (size_t i = 0; i < count; i++)
        for (uint32_t r = 0; r < SHMT_INDICES; r++)
            if (atomic_load_explicit(&attachment->rows[r].id_high, memory_order_acquire) == readers[i].high &&
                atomic_load_explicit(&attachment->rows[r].id_low, memory_order_acquire) == readers[i].low)
                mask |= shmt_bit(r);
    return mask;
}

bool shmt_revoke(shmt_attachment *attachment, uint32_t ticket, uint32_t sequence, const shmt_peer_id *readers, size_t count) {
    bool revoked = false;
    if (attachment->fork_epoch != shmt_fork_epoch() || ticket >= SHMT_TICKETS) return false;
    pthread_mutex_lock(&attachment->mutex);
    const shmt_sent *sent = &attachment->sent[ticket];
    if (!attachment->left && sent->open && sent->sequence == sequence) {
        uint64_t bits = bits_of(attachment, readers, count) & sent->readers; /* of the low half */
        uint64_t before = atomic_fetch_and_explicit(ticket_word(attachment, attachment->index, ticket), ~bits, memory_order_acquire);
        SHMT_KILL_POINT("revoke.ticket");
        revoked = (before & bits) != 0;
        if (revoked) {
            atomic_fetch_add_explicit(&attachment->rows[attachment->index].revoked, 1, memory_order_relaxed);
            SHMT_KILL_POINT("count.revoked");
        }
        shmt_settle(attachment, UINT32_MAX, false);
    }
    pthread_mutex_unlock(&attachment->mutex);
    return revoked;
}

uint32_t shmt_unopened_now(shmt_attachment *attachment, shmt_unopened *unopened) {
    uint32_t length = 0;
    pthread_mutex_lock(&attachment->mutex);
    for (uint32_t i = 0; i < attachment->open_length; i++) {
        uint16_t ticket = attachment->open_tickets[i];
        uint64_t word = atomic_load_explicit(ticket_word(attachment, attachment->index, ticket), memory_order_relaxed);
        if (shmt_word_mask(word)) unopened[length++] = (shmt_unopened){attachment->sent[ticket].entry, shmt_word_mask(word)};
    }
    pthread_mutex_unlock(&attachment->mutex);
    return length;
}
