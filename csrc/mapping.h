/* mapping.h - shared pages in this process: never inherited by fork, populated before use. */
#ifndef SHMT_MAPPING_H
#define SHMT_MAPPING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "status.h"

typedef struct shmt_mapping {
    uint8_t *base;
    size_t nbytes;
    bool writable;
    bool pinned; /* registered for DMA (keeper.h) */
} shmt_mapping;

/* Maps the first `nbytes` of `fd`. The file must be at least that large (the caller checked fstat): a page
 * behind its end would be a SIGBUS. MADV_DONTFORK: in a child a load faults instead of reading bytes that
 * the parent's peers reuse. With `populate` every page is entered into this process's page table now, so
 * that no transfer pays a minor fault; needs Linux 5.14, skipped silently before. */
shmt_status shmt_map(int fd, size_t nbytes, bool writable, bool populate, shmt_mapping *mapping);
void shmt_unmap(shmt_mapping *mapping);

#endif
