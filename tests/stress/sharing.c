/* sharing.c - a handle of what is held, to one reader or to several by one ticket: sent, doubled, lost, taken back. */
#include "stress.h"

/* Readers that can be addressed in this ring, `most` at most, from one drawn at random on. */
static uint32_t choose(const stress_place *place, stress_chance *chance, uint32_t most, uint32_t *chosen,
                       shmt_peer_id *ids) {
    uint32_t length = 0, first = (uint32_t)draw(chance, readers);
    for (uint32_t i = 0; i < readers && length < most; i++) {
        uint32_t number = (first + i) % readers;
        stress_reader *reader = &the_readers[number];
        ids[length].low = atomic_load_explicit(&reader->id_low[place->writer], memory_order_relaxed);
        ids[length].high = atomic_load_explicit(&reader->id_high[place->writer], memory_order_relaxed);
        if (ids[length].high) chosen[length++] = number;
    }
    return length;
}

static bool revoke(const stress_place *place, const shmt_reference *reference, const shmt_peer_id *ids, size_t length) {
    bool revoked = shmt_revoke(place->attachment, reference->ticket, reference->sequence, ids, length);
    if (revoked) count(REVOKED, 1);
    return revoked;
}

void spread(const stress_held *held, stress_chance *chance) {
    uint32_t chosen[MOST];
    shmt_peer_id ids[MOST];
    stress_message message = {.writer = held->place->writer, .life = held->place->life, .payload = held->payload};
    uint32_t length = choose(held->place, chance, one_in(chance, 3) ? 4 : 1, chosen, ids);
    if (length == 0) return;

    uint64_t start = 0, nbytes = held->lease.nbytes;
    if (one_in(chance, 4)) { /* a slice */
        start = draw(chance, nbytes / 8) * 8;
        nbytes = (draw(chance, (nbytes - start) / 8) + 1) * 8;
    }
    shmt_attachment *attachment = held->place->attachment;
    shmt_status status =
        shmt_share(attachment, (uintptr_t)held->lease.address + start, nbytes, ids, length, &message.reference);
    if (status == SHMT_NOT_JOINED || status == SHMT_NO_TICKET) {
        count(NOT_JOINED, 1);
        return;
    }
    if (status != SHMT_OK) broken("share answered %d", (int)status);
    count(attachment->index == SHMT_WRITER ? SHARED : FORWARDED, 1);
    if (length > 1) count(BROADCAST, 1);

    for (uint32_t i = 0; i < length; i++) {
        if (one_in(chance, 40)) { /* lost: only its sender can know */
            count(LOST, 1);
            revoke(held->place, &message.reference, &ids[i], 1);
            continue;
        }
        if (!mail_send(&the_readers[chosen[i]], &message)) revoke(held->place, &message.reference, &ids[i], 1);
        if (one_in(chance, 40) && mail_send(&the_readers[chosen[i]], &message)) count(DOUBLED, 1);
    }
    if (one_in(chance, 25)) revoke(held->place, &message.reference, NULL, 0);
}
