/* copies.c - one run:  copies
 *
 * Copies by every kernel that this processor has, alone and shared by threads, at lengths and alignments around those at
 * which the kernels change their way; times them; and calibrates, which empties caches. Prints one line of JSON. Exit
 * status 1 and a sentence on stderr if a byte was wrong or lies where none was to be written. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "copy.h"
#include "copy_cache.h"

#define LARGEST_NBYTES (2u << 20)
#define MARGIN_NBYTES 64u
#define AREA_NBYTES (LARGEST_NBYTES + 2 * MARGIN_NBYTES)
#define UNTOUCHED 0xa5

static uint8_t src[AREA_NBYTES], dst[AREA_NBYTES];

static void check(shmt_copy_choice choice, size_t nbytes, size_t shift) {
    memset(dst, UNTOUCHED, sizeof dst);
    shmt_copy_evict(src, sizeof src);
    uint8_t *to = dst + MARGIN_NBYTES + shift;
    shmt_copy_with(choice, to, src + MARGIN_NBYTES, nbytes);
    if (memcmp(to, src + MARGIN_NBYTES, nbytes) == 0 && to[-1] == UNTOUCHED && to[nbytes] == UNTOUCHED) return;
    fprintf(stderr, "copies: %s, %u threads: %zu bytes to an address %zu behind a line are not those copied\n",
            shmt_copy_kernel_name(choice.kernel), choice.threads, nbytes, shift);
    exit(1);
}

int main(void) {
    static const size_t lengths[] = {0, 1, 63, 64, 255, 256, 4097, 65536, LARGEST_NBYTES - MARGIN_NBYTES};
    for (size_t i = 0; i < sizeof src; i++) src[i] = (uint8_t)(i * 131 + i / 256);
    unsigned kernels = 0, copies = 0;
    for (uint8_t kernel = 0; kernel < SHMT_COPY_KERNELS; kernel++) {
        if (!shmt_copy_kernel_available(kernel)) continue;
        kernels++;
        for (uint8_t threads = 1; threads <= 2; threads++)
            for (size_t length = 0; length < sizeof lengths / sizeof *lengths; length++)
                for (size_t shift = 0; shift < 64; shift += 21, copies++)
                    check((shmt_copy_choice){kernel, threads}, lengths[length], shift);
    }
    shmt_copy_plan plan;
    if (!shmt_copy_calibrate(&plan)) {
        fprintf(stderr, "copies: no memory to calibrate in\n");
        return 1;
    }
    shmt_copy_set_plan(&plan);
    check(shmt_copy_choose(LARGEST_NBYTES - MARGIN_NBYTES, LARGEST_NBYTES), LARGEST_NBYTES - MARGIN_NBYTES, 0);
    printf("{\"kernels\": %u, \"copies\": %u}\n", kernels, copies);
}
