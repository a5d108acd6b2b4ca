/* reaping.c - taking lease bits out of block words: one's own, a dead reader's. */
#include "attachment.h"
#include "kill_points.h"
#include "wait.h"

void shmt_clear_bit(shmt_attachment *attachment, uint32_t entry, uint32_t index, uint32_t generation, bool any_generation) {
    _Atomic uint64_t *word = &attachment->entries[entry].word;
    uint64_t before = atomic_load_explicit(word, memory_order_relaxed), after;
    do {
        if (!(shmt_word_mask(before) & shmt_bit(index))) return;
        if (!any_generation && shmt_word_high(before) != generation) return;
        after = before & ~(uint64_t)shmt_bit(index);
        /* SYNC C-RELEASE: our reads of the block come before the writer that sees mask 0 reuses it. */
    } while (!atomic_compare_exchange_weak_explicit(word, &before, after, memory_order_acq_rel, memory_order_relaxed));
    SHMT_KILL_POINT("release.bit");
    if (shmt_word_mask(after)) return;
    /* A writer that raised `waiting` before it looked at the word sees either mask 0 or this bump. */
    shmt_header *header = attachment->header;
    atomic_fetch_add_explicit(&header->released, 1, memory_order_seq_cst);
    SHMT_KILL_POINT("release.bump");
    if (atomic_load_explicit(&header->waiting, memory_order_seq_cst)) shmt_wake(&header->released);
}

void shmt_clear_everywhere(shmt_attachment *attachment, uint32_t index) {
    for (uint32_t e = 0; e < attachment->entries_length; e++) {
        shmt_clear_bit(attachment, e, index, 0, true);
        SHMT_KILL_POINT("scrub.entry");
    }
}

typedef struct dead_reader {
    shmt_attachment *attachment;
    uint32_t index;
} dead_reader;

static void clear_dead(void *context) {
    dead_reader *dead = context;
    SHMT_KILL_POINT("reap.locked");
    shmt_clear_everywhere(dead->attachment, dead->index);
    atomic_store_explicit(&dead->attachment->rows[dead->index].id_high, 0, memory_order_release);
    SHMT_KILL_POINT("reap.done");
}

uint32_t shmt_reap(shmt_attachment *attachment) {
    uint32_t reaped = 0, leased = 0;
    for (uint32_t e = 0; e < attachment->entries_length; e++)
        leased |= shmt_word_mask(atomic_load_explicit(&attachment->entries[e].word, memory_order_relaxed));
    for (uint32_t r = SHMT_WRITER + 1; r < SHMT_INDICES; r++) {
        bool named = atomic_load_explicit(&attachment->rows[r].id_high, memory_order_acquire) != 0;
        if (r == attachment->index || (!named && !(leased & shmt_bit(r)))) continue;
        if (shmt_lock_is_held(&attachment->file, r)) continue; /* the usual answer, cheaply */
        dead_reader dead = {attachment, r};
        if (shmt_lock_during(&attachment->file, r, 1, clear_dead, &dead) == SHMT_OK) reaped++;
    }
    if (reaped) {
        _Atomic uint64_t *reaps = &attachment->rows[attachment->index].reaps;
        atomic_fetch_add_explicit(reaps, reaped, memory_order_relaxed);
        SHMT_KILL_POINT("count.reaped");
    }
    return reaped;
}
