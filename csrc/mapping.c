#define _GNU_SOURCE
#include "mapping.h"

#include <sys/mman.h>

#include "cuda.h"

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#define MADV_POPULATE_WRITE 23
#endif

shmt_status shmt_map(int fd, size_t nbytes, bool writable, bool populate, shmt_mapping *mapping) {
    int protection = writable ? PROT_READ | PROT_WRITE : PROT_READ;
    void *base = mmap(NULL, nbytes, protection, MAP_SHARED, fd, 0);
    if (base == MAP_FAILED) return SHMT_SYSTEM;
    if (madvise(base, nbytes, MADV_DONTFORK) != 0) {
        munmap(base, nbytes);
        return SHMT_SYSTEM;
    }
    if (populate) madvise(base, nbytes, writable ? MADV_POPULATE_WRITE : MADV_POPULATE_READ);
    *mapping = (shmt_mapping){.base = base, .nbytes = nbytes, .writable = writable};
    return SHMT_OK;
}

void shmt_unmap(shmt_mapping *mapping) {
    if (mapping->pinned) shmt_cuda_unregister(mapping->base, mapping->nbytes); /* or the device would go on using the pages */
    if (mapping->base) munmap(mapping->base, mapping->nbytes);
    *mapping = (shmt_mapping){0};
}
