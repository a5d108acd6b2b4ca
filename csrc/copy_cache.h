/* copy_cache.h - emptying the cache, for timings. (Its size is in copy.h.) */
#ifndef SHMT_COPY_CACHE_H
#define SHMT_COPY_CACHE_H

#include <stddef.h>

/* Every line of [address, address + nbytes) leaves all caches, written back where it was dirty. Complete on return. */
void shmt_copy_evict(const void *address, size_t nbytes);

#endif
