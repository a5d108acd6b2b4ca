#include "writer.h"

#include "kill_points.h"
#include "tickets.h"
#include "wait.h"

/* Entries that an ordinary allocation looks at: bounds its cost when thousands of blocks are live. */
#define GLANCE 64u

static void retire_or_reuse(shmt_attachment *attachment, uint32_t entry) {
    attachment->held[entry] = (shmt_extent){0};
    if (attachment->locals[entry].generation == UINT32_MAX) return; /* its generations are used up (rule 1) */
    uint32_t tail = (attachment->free_head + attachment->free_entries_length++) % attachment->entries_length;
    attachment->free_entries[tail] = entry;
}

/* Of the mask only the readers' bits are asked for: whether we hold the block ourselves is not for others to say. */
static uint32_t readers_of(const shmt_attachment *attachment, uint32_t entry) {
    /* SYNC C-RELEASE: every reader's last look at the block came before its bit went out. */
    uint64_t word = atomic_load_explicit(&attachment->entries[entry].word, memory_order_acquire);
    return shmt_word_mask(word) & ~shmt_bit(SHMT_WRITER);
}

/* Rule 8: a live entry whose mask is 0 goes back to the allocator. Nothing else frees. */
static void harvest(shmt_attachment *attachment, uint32_t limit) {
    if (limit >= attachment->live_length) { /* all: from the first on, for what goes is replaced by the last */
        limit = attachment->live_length;
        attachment->harvest_cursor = 0;
    }
    while (limit-- && attachment->live_length) {
        if (attachment->harvest_cursor >= attachment->live_length) attachment->harvest_cursor = 0;
        uint32_t entry = attachment->live[attachment->harvest_cursor];
        const shmt_local *local = &attachment->locals[entry];
        bool held = local->tensors || local->in_flight || readers_of(attachment, entry);
        if (held || shmt_extents_give(&attachment->extents, attachment->held[entry]) != SHMT_OK) {
            attachment->harvest_cursor++;
            continue;
        }
        attachment->live[attachment->harvest_cursor] = attachment->live[--attachment->live_length];
        retire_or_reuse(attachment, entry);
    }
}

static void collect(shmt_attachment *attachment, bool thoroughly) {
    uint32_t limit = thoroughly ? UINT32_MAX : GLANCE;
    shmt_settle(attachment, limit, thoroughly);
    uint32_t released = atomic_load_explicit(&attachment->header->released, memory_order_acquire);
    if (!thoroughly && released == attachment->released_seen) return;
    attachment->released_seen = released;
    harvest(attachment, limit);
}

static shmt_status take(shmt_attachment *attachment, uint64_t nbytes, shmt_lease *lease) {
    shmt_status status = shmt_span_reserve(attachment);
    if (status != SHMT_OK) return status;
    if (attachment->free_entries_length == 0) return SHMT_NO_ENTRY;
    shmt_extent extent;
    if ((status = shmt_extents_take(&attachment->extents, nbytes, &extent)) != SHMT_OK) return status;

    uint32_t number = attachment->free_entries[attachment->free_head];
    attachment->free_head = (attachment->free_head + 1) % attachment->entries_length;
    attachment->free_entries_length--;
    attachment->held[number] = extent;
    attachment->live[attachment->live_length++] = number;

    shmt_entry *entry = &attachment->entries[number];
    uint32_t generation = attachment->locals[number].generation + 1;
    entry->segment = extent.segment;
    entry->offset = extent.offset;
    entry->nbytes = nbytes;
    entry->charged_ns = (uint64_t)shmt_now_ns();
    SHMT_KILL_POINT("put.fields");
    /* SYNC B-PUT: the fields come before the word that makes them readable. */
    atomic_store_explicit(&entry->word, shmt_word(generation, shmt_bit(SHMT_WRITER)), memory_order_release);
    SHMT_KILL_POINT("put.word");

    const shmt_mapping *mapping = &attachment->segments[extent.segment];
    shmt_local *local = &attachment->locals[number];
    local->generation = generation;
    local->tensors = 1;
    local->in_flight = 0;
    attachment->users++;
    shmt_span_add(attachment, (uintptr_t)mapping->base + extent.offset, nbytes, number);
    *lease = (shmt_lease){mapping->base + extent.offset, nbytes, number, generation, true};
    shmt_row *row = &attachment->rows[SHMT_WRITER];
    atomic_fetch_add_explicit(&row->writes, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&row->written_nbytes, nbytes, memory_order_relaxed);
    SHMT_KILL_POINT("count.put");
    return SHMT_OK;
}

shmt_status shmt_allocate(shmt_attachment *attachment, uint64_t nbytes, shmt_lease *lease) {
    shmt_status status = shmt_check(attachment);
    if (status != SHMT_OK) return status;
    pthread_mutex_lock(&attachment->mutex);
    if (attachment->left) {
        status = SHMT_CLOSED;
    } else {
        collect(attachment, false);
        status = take(attachment, nbytes, lease);
        if (status == SHMT_FULL || status == SHMT_NO_ENTRY) {
            collect(attachment, true);
            status = take(attachment, nbytes, lease);
        }
    }
    pthread_mutex_unlock(&attachment->mutex);
    return status;
}

shmt_status shmt_allocate_wait(shmt_attachment *attachment, uint64_t nbytes, int64_t timeout_ns, shmt_lease *lease) {
    shmt_status status = shmt_check(attachment);
    if (status != SHMT_OK) return status;
    shmt_header *header = attachment->header;
    int64_t start = shmt_now_ns();
    atomic_fetch_add_explicit(&header->waiting, 1, memory_order_seq_cst);
    SHMT_KILL_POINT("wait.raised");
    for (;;) {
        uint32_t seen = atomic_load_explicit(&header->released, memory_order_seq_cst);
        shmt_ring_bells(attachment);
        shmt_reap(attachment);
        status = shmt_allocate(attachment, nbytes, lease);
        int64_t left = timeout_ns - (shmt_now_ns() - start);
        if ((status != SHMT_FULL && status != SHMT_NO_ENTRY) || left <= 0) break;
        shmt_wait(&header->released, seen, left < SHMT_SLICE_NS ? left : SHMT_SLICE_NS);
    }
    atomic_fetch_sub_explicit(&header->waiting, 1, memory_order_seq_cst);
    SHMT_KILL_POINT("wait.lowered");
    atomic_fetch_add_explicit(&attachment->rows[SHMT_WRITER].wait_ns, (uint64_t)(shmt_now_ns() - start), memory_order_relaxed);
    SHMT_KILL_POINT("count.waited");
    return status == SHMT_FULL || status == SHMT_NO_ENTRY ? SHMT_TIMEOUT : status;
}

uint32_t shmt_holders(shmt_attachment *attachment, uint32_t entry, uint32_t generation) {
    uint32_t mask = 0;
    pthread_mutex_lock(&attachment->mutex);
    const shmt_local *local = &attachment->locals[entry];
    if (attachment->held[entry].nbytes && local->generation == generation) {
        mask = readers_of(attachment, entry);
        if (local->tensors || local->in_flight) mask |= shmt_bit(SHMT_WRITER);
    }
    pthread_mutex_unlock(&attachment->mutex);
    return mask;
}

uint32_t shmt_released(const shmt_attachment *attachment) {
    return atomic_load_explicit(&attachment->header->released, memory_order_seq_cst);
}

shmt_status shmt_wait_released(shmt_attachment *attachment, uint32_t released, int64_t timeout_ns) {
    shmt_status status = shmt_check(attachment);
    if (status != SHMT_OK) return status;
    shmt_header *header = attachment->header;
    int64_t start = shmt_now_ns();
    atomic_fetch_add_explicit(&header->waiting, 1, memory_order_seq_cst);
    shmt_ring_bells(attachment);
    shmt_reap(attachment);
    shmt_wait(&header->released, released, timeout_ns < SHMT_SLICE_NS ? timeout_ns : SHMT_SLICE_NS);
    atomic_fetch_sub_explicit(&header->waiting, 1, memory_order_seq_cst);
    atomic_fetch_add_explicit(&attachment->rows[SHMT_WRITER].wait_ns, (uint64_t)(shmt_now_ns() - start), memory_order_relaxed);
    return SHMT_OK;
}

void shmt_count_copied(shmt_attachment *attachment, uint64_t nbytes, uint64_t copy_ns) {
    shmt_row *row = &attachment->rows[attachment->index];
    atomic_fetch_add_explicit(&row->copied_nbytes, nbytes, memory_order_relaxed);
    SHMT_KILL_POINT("count.copied");
    atomic_fetch_add_explicit(&row->copy_ns, copy_ns, memory_order_relaxed);
    SHMT_KILL_POINT("count.copying");
}

void shmt_room_now(shmt_attachment *attachment, shmt_room *room) {
    pthread_mutex_lock(&attachment->mutex);
    if (!attachment->left) collect(attachment, true);
    *room = (shmt_room){
        .used_nbytes = attachment->extents.used_nbytes,
        .total_nbytes = attachment->extents.total_nbytes,
        .largest_nbytes = shmt_extents_largest(&attachment->extents),
        .live = attachment->live_length,
    };
    pthread_mutex_unlock(&attachment->mutex);
}
