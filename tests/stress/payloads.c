/* payloads.c - the bytes of a block follow from one number, so that whoever opens it knows them all. */
#include <stdlib.h>

#include "copy.h"
#include "stress.h"

static uint64_t word_at(uint64_t payload, uint64_t number) { return (payload + number) * 0x9e3779b97f4a7c15ull; }

static void fill(uint8_t *address, uint64_t nbytes, uint64_t payload) {
    uint64_t *words = (uint64_t *)address;
    for (uint64_t i = 0; i < nbytes / 8; i++) words[i] = word_at(payload, i);
}

/* Large ones through the copy pool. Only by libc's kernel: non-temporal stores are invisible to the sanitizers. */
void payload_write(uint8_t *address, uint64_t nbytes, uint64_t payload) {
    if (nbytes < LARGE_NBYTES) {
        fill(address, nbytes, payload);
        return;
    }
    uint8_t *source = malloc(nbytes);
    if (!source) broken("no memory for a payload of %llu bytes", (unsigned long long)nbytes);
    fill(source, nbytes, payload);
    shmt_copy_with((shmt_copy_choice){SHMT_COPY_LIBC, 2}, address, source, nbytes);
    free(source);
    count(LARGE, 1);
}

bool payload_is(const uint8_t *address, uint64_t nbytes, uint64_t payload, uint64_t offset) {
    const uint64_t *words = (const uint64_t *)address;
    for (uint64_t i = 0; i < nbytes / 8; i++)
        if (words[i] != word_at(payload, offset / 8 + i)) return false;
    return true;
}
