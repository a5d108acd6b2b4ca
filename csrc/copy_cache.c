#define _GNU_SOURCE
#include "copy_cache.h"

#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "copy.h"

#define CACHE_ASSUMED_NBYTES ((uint64_t)16 << 20)
#define CACHE_LEAST_NBYTES ((uint64_t)2 << 20)
#define CACHE_MOST_NBYTES ((uint64_t)64 << 20)

static bool read_text(int cpu, int index, const char *file, char text[16]) {
    char path[96];
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/cache/index%d/%s", cpu, index, file);
    FILE *stream = fopen(path, "re");
    if (!stream) return false;
    bool ok = fgets(text, 16, stream) != NULL;
    fclose(stream);
    return ok;
}

/* The size of the highest level, 0 if unknown. The text is a number of KiB, MiB or GiB: "32768K". */
static uint64_t last_level_nbytes(int cpu) {
    char text[16], unit = 0;
    uint64_t nbytes = 0;
    int highest = 0, level;
    for (int index = 0; read_text(cpu, index, "level", text); index++) {
        unsigned long long count;
        if (sscanf(text, "%d", &level) != 1 || level < highest) continue;
        if (!read_text(cpu, index, "size", text) || sscanf(text, "%llu%c", &count, &unit) != 2) continue;
        int shift = unit == 'K' ? 10 : unit == 'M' ? 20 : unit == 'G' ? 30 : 0;
        highest = level;
        nbytes = (uint64_t)count << shift;
    }
    return nbytes;
}

uint64_t shmt_copy_cache_nbytes(void) {
    int cpu = sched_getcpu();
    uint64_t nbytes = last_level_nbytes(cpu < 0 ? 0 : cpu);
    if (!nbytes) return CACHE_ASSUMED_NBYTES;
    if (nbytes < CACHE_LEAST_NBYTES) return CACHE_LEAST_NBYTES;
    return nbytes > CACHE_MOST_NBYTES ? CACHE_MOST_NBYTES : nbytes;
}

#if defined(__x86_64__)

#include <immintrin.h>

#define LINE_NBYTES 64

/* clflush waits for each line in turn on some CPUs, ten times as long as clflushopt, which not all have. */
__attribute__((target("clflushopt"))) static void evict_unordered(const char *line, const char *end) {
    for (; line < end; line += LINE_NBYTES) _mm_clflushopt((void *)(uintptr_t)line);
}

static void evict_ordered(const char *line, const char *end) {
    for (; line < end; line += LINE_NBYTES) _mm_clflush(line);
}

#include <cpuid.h>

static bool has_clflushopt(void) {
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & bit_CLFLUSHOPT);
}

void shmt_copy_evict(const void *address, size_t nbytes) {
    const char *line = (const char *)((uintptr_t)address & ~(uintptr_t)(LINE_NBYTES - 1));
    const char *end = (const char *)address + nbytes;
    (has_clflushopt() ? evict_unordered : evict_ordered)(line, end);
    _mm_mfence();
}

#elif defined(__aarch64__)

/* Linux lets programs read the line size and clean and invalidate by address (SCTLR_EL1.UCT and .UCI). */
void shmt_copy_evict(const void *address, size_t nbytes) {
    uint64_t type;
    __asm__ volatile("mrs %0, ctr_el0" : "=r"(type));
    uintptr_t line_nbytes = (uintptr_t)4 << (type >> 16 & 15);
    uintptr_t end = (uintptr_t)address + nbytes;
    for (uintptr_t line = (uintptr_t)address & ~(line_nbytes - 1); line < end; line += line_nbytes)
        __asm__ volatile("dc civac, %0" ::"r"(line) : "memory");
    __asm__ volatile("dsb sy" ::: "memory");
}

#else
#error "shmtransport runs on x86-64 and aarch64"
#endif
