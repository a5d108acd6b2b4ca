#include "leases.h"

#include <stdlib.h>
#include <string.h>

#include "kill_points.h"
#include "tickets.h"

/* First span behind `address`. */
static size_t span_position(const shmt_attachment *attachment, uintptr_t address) {
    size_t low = 0, high = attachment->spans_length;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (attachment->spans[middle].address <= address)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

const shmt_span *shmt_span_find(const shmt_attachment *attachment, uintptr_t address, uint64_t nbytes) {
    size_t at = span_position(attachment, address);
    if (at == 0 || nbytes == 0) return NULL;
    const shmt_span *span = &attachment->spans[at - 1];
    uint64_t offset = address - span->address;
    return offset < span->nbytes && nbytes <= span->nbytes - offset ? span : NULL;
}

shmt_status shmt_span_reserve(shmt_attachment *attachment) {
    if (attachment->spans_length < attachment->spans_room) return SHMT_OK;
    size_t room = attachment->spans_room ? attachment->spans_room * 2 : 64;
    shmt_span *grown = realloc(attachment->spans, room * sizeof *grown);
    if (!grown) return SHMT_NO_MEMORY;
    attachment->spans = grown;
    attachment->spans_room = room;
    return SHMT_OK;
}

void shmt_span_add(shmt_attachment *attachment, uintptr_t address, uint64_t nbytes, uint32_t entry) {
    size_t at = span_position(attachment, address);
    shmt_span *spans = attachment->spans;
    memmove(&spans[at + 1], &spans[at], (attachment->spans_length - at) * sizeof *spans);
    spans[at] = (shmt_span){address, nbytes, entry};
    attachment->locals[entry].address = address;
    attachment->spans_length++;
}

static void span_remove(shmt_attachment *attachment, uintptr_t address) {
    size_t at = span_position(attachment, address);
    attachment->spans_length--;
    memmove(&attachment->spans[at - 1], &attachment->spans[at], (attachment->spans_length - (at - 1)) * sizeof *attachment->spans);
}

void shmt_lease_release_if_unused(shmt_attachment *attachment, uint32_t entry) {
    const shmt_local *local = &attachment->locals[entry];
    if (local->tensors || local->in_flight || attachment->left) return;
    shmt_clear_bit(attachment, entry, attachment->index, local->generation, false);
}

void shmt_lease_finish(shmt_attachment *attachment, uint32_t entry, uint32_t generation) {
    if (attachment->fork_epoch != shmt_fork_epoch()) return;
    pthread_mutex_lock(&attachment->mutex);
    shmt_local *local = &attachment->locals[entry];
    if (local->generation == generation && local->tensors && --local->tensors == 0) {
        span_remove(attachment, local->address);
        shmt_lease_release_if_unused(attachment, entry);
    }
    pthread_mutex_unlock(&attachment->mutex);
    shmt_drop(attachment);
}

void shmt_lease_end(shmt_attachment *attachment, uint32_t entry, uint32_t generation) {
    if (attachment->fork_epoch != shmt_fork_epoch()) return;
    shmt_defer defer = atomic_load_explicit(&attachment->defer, memory_order_acquire);
    if (defer && defer(attachment->defer_context, attachment, entry, generation)) return;
    shmt_lease_finish(attachment, entry, generation);
}

/* Step (a) of rule 13: our own bit in, requiring the same generation and somebody's lease. Without the
 * second condition a block that the writer has already harvested would come back to life. */
static shmt_status take_bit(shmt_attachment *attachment, const shmt_reference *reference) {
    _Atomic uint64_t *word = &attachment->entries[reference->entry].word;
    uint64_t before = atomic_load_explicit(word, memory_order_acquire);
    do {
        if (shmt_word_high(before) != reference->generation || shmt_word_mask(before) == 0) return SHMT_STALE;
        /* SYNC B-SHARE: the sender's read-modify-write of this word came behind the bytes. */
    } while (!atomic_compare_exchange_weak_explicit(word, &before, before | shmt_bit(attachment->index),
                                                    memory_order_acq_rel, memory_order_acquire));
    SHMT_KILL_POINT("open.bit");
    return SHMT_OK;
}

/* Step (c): the fields hold still now that our bit is in (SYNC B-PUT); believe none of them unchecked, and look at each
 * once (volatile): what was checked must be what is used, even if somebody stores into it meanwhile. */
static shmt_status locate(shmt_attachment *attachment, const shmt_reference *reference, shmt_span *span, uint32_t *segment) {
    const volatile shmt_entry *entry = &attachment->entries[reference->entry];
    uint64_t offset = entry->offset, nbytes = entry->nbytes;
    *segment = entry->segment;
    if (attachment->index == SHMT_WRITER) {
        const shmt_extent *held = &attachment->held[reference->entry];
        *segment = held->segment;
        offset = held->offset;
        if (nbytes > held->nbytes) nbytes = held->nbytes;
    }
    /* SYNC D-SEGMENT */
    if (*segment >= SHMT_SEGMENTS || *segment >= atomic_load_explicit(&attachment->header->segments, memory_order_acquire))
        return SHMT_BAD_HANDLE;
    const shmt_mapping *mapping = &attachment->segments[*segment];
    if (!mapping->base) return SHMT_NEED_SEGMENT;
    if (offset > mapping->nbytes || nbytes > mapping->nbytes - offset) return SHMT_BAD_HANDLE;
    if (reference->offset > nbytes || reference->nbytes > nbytes - reference->offset) return SHMT_BAD_HANDLE;
    *span = (shmt_span){(uintptr_t)mapping->base + offset, nbytes, reference->entry};
    return SHMT_OK;
}

/* The writer need not ask the shared word which blocks live. */
static bool may_live(const shmt_attachment *attachment, const shmt_reference *reference) {
    uint32_t entry = reference->entry;
    if (attachment->index != SHMT_WRITER) return true;
    return attachment->held[entry].nbytes && attachment->locals[entry].generation == reference->generation;
}

static shmt_status open_locked(shmt_attachment *attachment, const shmt_reference *reference, shmt_lease *lease, uint32_t *segment) {
    shmt_local *local = &attachment->locals[reference->entry];
    shmt_span span;
    shmt_status status = shmt_span_reserve(attachment);
    if (status != SHMT_OK) return status;
    bool held = local->tensors || local->in_flight;
    if (!may_live(attachment, reference)) return SHMT_STALE;
    if (held) { /* our bit is in, so the word's generation is ours */
        if (local->generation != reference->generation) return SHMT_STALE;
        /* SYNC B-SHARE: also for a second handle of a block that we hold already. */
        atomic_load_explicit(&attachment->entries[reference->entry].word, memory_order_acquire);
    } else {
        if ((status = take_bit(attachment, reference)) != SHMT_OK) return status;
        local->generation = reference->generation;
    }
    if ((status = locate(attachment, reference, &span, segment)) != SHMT_OK) {
        shmt_lease_release_if_unused(attachment, reference->entry);
        return status;
    }
    if (local->tensors++ == 0) shmt_span_add(attachment, span.address, span.nbytes, span.entry);
    attachment->users++;
    shmt_ticket_acknowledge(attachment, reference->sender, reference->ticket, reference->sequence);
    *lease = (shmt_lease){
        .address = (uint8_t *)span.address + reference->offset,
        .nbytes = reference->nbytes,
        .entry = reference->entry,
        .generation = reference->generation,
        .writable = attachment->segments[*segment].writable,
    };
    shmt_row *row = &attachment->rows[attachment->index];
    atomic_fetch_add_explicit(&row->opened, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&row->opened_nbytes, reference->nbytes, memory_order_relaxed);
    SHMT_KILL_POINT("count.opened");
    return SHMT_OK;
}

shmt_status shmt_lease_open(shmt_attachment *attachment, const shmt_reference *reference, shmt_lease *lease, uint32_t *segment) {
    shmt_status status = shmt_check(attachment);
    if (status != SHMT_OK) return status;
    if (reference->entry >= attachment->entries_length || reference->sender >= SHMT_INDICES || reference->ticket >= SHMT_TICKETS)
        return SHMT_BAD_HANDLE;
    pthread_mutex_lock(&attachment->mutex);
    if (attachment->left) {
        status = SHMT_CLOSED;
    } else {
        status = open_locked(attachment, reference, lease, segment);
        /* A handle that cannot be opened was opened all the same, as far as its sender is concerned. */
        if (status != SHMT_OK && status != SHMT_NEED_SEGMENT)
            shmt_ticket_acknowledge(attachment, reference->sender, reference->ticket, reference->sequence);
    }
    pthread_mutex_unlock(&attachment->mutex);
    return status;
}
