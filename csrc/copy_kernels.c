#include "copy_kernels.h"

#include <string.h>

#include "kill_points.h"

static void copy_libc(void *dst, const void *src, size_t nbytes) { memcpy(dst, src, nbytes); }

#if defined(__x86_64__)

#include <immintrin.h>

/* Non-temporal stores write whole lines to memory without reading them first and without pushing anything out of the
 * cache; prefetchnta does the like for the source. memcpy moves every line of the destination twice, in and out, which
 * is why it loses where nothing is cached. Prefetching half a page ahead carries the reads over the page's end, where
 * the hardware's own prefetcher stops. */
#define LINE_NBYTES 64
#define STEP_NBYTES 256
#define PREFETCH_NBYTES 2048

static inline void prefetch_step(const char *src) {
    /* May lie behind the source's end, where it has no effect; an integer, since C has no such pointer. */
    uintptr_t ahead = (uintptr_t)src + PREFETCH_NBYTES;
    for (size_t line = 0; line < STEP_NBYTES; line += LINE_NBYTES)
        _mm_prefetch((const char *)(ahead + line), _MM_HINT_NTA);
}

/* What has to be copied before `dst` stands at the start of a line. */
static inline size_t head_nbytes(const void *dst) { return -(uintptr_t)dst % LINE_NBYTES; }

__attribute__((target("avx2"))) static void copy_avx2_nt(void *dst, const void *src, size_t nbytes) {
    size_t head = head_nbytes(dst);
    if (nbytes < head + STEP_NBYTES) {
        memcpy(dst, src, nbytes);
        return;
    }
    memcpy(dst, src, head);
    char *to = (char *)dst + head;
    const char *from = (const char *)src + head;
    size_t left = nbytes - head;
    for (; left >= STEP_NBYTES; left -= STEP_NBYTES, to += STEP_NBYTES, from += STEP_NBYTES) {
        prefetch_step(from);
        for (size_t half = 0; half < STEP_NBYTES; half += STEP_NBYTES / 2) {
            __m256i a = _mm256_loadu_si256((const __m256i *)(from + half));
            __m256i b = _mm256_loadu_si256((const __m256i *)(from + half + 32));
            __m256i c = _mm256_loadu_si256((const __m256i *)(from + half + 64));
            __m256i d = _mm256_loadu_si256((const __m256i *)(from + half + 96));
            _mm256_stream_si256((__m256i *)(to + half), a);
            _mm256_stream_si256((__m256i *)(to + half + 32), b);
            _mm256_stream_si256((__m256i *)(to + half + 64), c);
            _mm256_stream_si256((__m256i *)(to + half + 96), d);
        }
    }
    memcpy(to, from, left);
    SHMT_KILL_POINT("copy.stored");
    _mm_sfence();
    SHMT_KILL_POINT("copy.fenced");
}

__attribute__((target("avx512f"))) static void copy_avx512_nt(void *dst, const void *src, size_t nbytes) {
    size_t head = head_nbytes(dst);
    if (nbytes < head + STEP_NBYTES) {
        memcpy(dst, src, nbytes);
        return;
    }
    memcpy(dst, src, head);
    char *to = (char *)dst + head;
    const char *from = (const char *)src + head;
    size_t left = nbytes - head;
    for (; left >= STEP_NBYTES; left -= STEP_NBYTES, to += STEP_NBYTES, from += STEP_NBYTES) {
        prefetch_step(from);
        __m512i a = _mm512_loadu_si512(from);
        __m512i b = _mm512_loadu_si512(from + 64);
        __m512i c = _mm512_loadu_si512(from + 128);
        __m512i d = _mm512_loadu_si512(from + 192);
        _mm512_stream_si512((__m512i *)to, a);
        _mm512_stream_si512((__m512i *)(to + 64), b);
        _mm512_stream_si512((__m512i *)(to + 128), c);
        _mm512_stream_si512((__m512i *)(to + 192), d);
    }
    memcpy(to, from, left);
    SHMT_KILL_POINT("copy.stored");
    _mm_sfence();
    SHMT_KILL_POINT("copy.fenced");
}

shmt_copy_function shmt_copy_kernel_function(shmt_copy_kernel kernel) {
    switch (kernel) {
    case SHMT_COPY_LIBC: return copy_libc;
    case SHMT_COPY_AVX2_NT: return __builtin_cpu_supports("avx2") ? copy_avx2_nt : NULL;
    case SHMT_COPY_AVX512_NT: return __builtin_cpu_supports("avx512f") ? copy_avx512_nt : NULL;
    default: return NULL;
    }
}

#else

shmt_copy_function shmt_copy_kernel_function(shmt_copy_kernel kernel) {
    return kernel == SHMT_COPY_LIBC ? copy_libc : NULL;
}

#endif

const char *shmt_copy_kernel_name(shmt_copy_kernel kernel) {
    static const char *const names[SHMT_COPY_KERNELS] = {"libc", "avx2-nt", "avx512-nt"};
    return (unsigned)kernel < SHMT_COPY_KERNELS ? names[kernel] : "?";
}

bool shmt_copy_kernel_available(shmt_copy_kernel kernel) { return shmt_copy_kernel_function(kernel) != NULL; }
