/* one_address.c - takes the place of csrc/mapping.c for ThreadSanitizer: all attachments of this process see a segment
 * at one address, since ThreadSanitizer knows a byte by its address. So the reader's load and the writer's store of one
 * byte meet, and only the core's own atomics order them. Writable for all: a load is a load.
 *
 * The table has a lock that ThreadSanitizer does not see, for the reason that mail.c gives. */
#define _GNU_SOURCE
#include <sched.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "mapping.h"
#include "stress.h"

#define UNSEEN __attribute__((no_sanitize("thread")))
#define REGIONS 4096

/* ThreadSanitizer's own; no header of it declares them. */
void AnnotateIgnoreWritesBegin(const char *file, int line);
void AnnotateIgnoreWritesEnd(const char *file, int line);

typedef struct shared_region {
    dev_t device;
    ino_t inode;
    uint8_t *base;
    size_t nbytes;
    uint32_t mappings; /* 0: this place in the table is free */
} shared_region;

static shared_region regions[REGIONS];
static int taken;

UNSEEN static void lock(void) {
    while (__atomic_exchange_n(&taken, 1, __ATOMIC_ACQUIRE)) sched_yield();
}

UNSEEN static void unlock(void) { __atomic_store_n(&taken, 0, __ATOMIC_RELEASE); }

/* The region of the file, or a free one. */
UNSEEN static shared_region *find(dev_t device, ino_t inode) {
    shared_region *vacant = NULL;
    for (shared_region *each = regions; each < regions + REGIONS; each++) {
        if (each->mappings && each->device == device && each->inode == inode) return each;
        if (!each->mappings && !vacant) vacant = each;
    }
    return vacant;
}

/* ThreadSanitizer counts a mapping as a write into all of it, unless writes are ignored: then it only forgets what was
 * at that address before, the stack of a thread that has ended, for one. */
UNSEEN static uint8_t *map_whole(int fd, size_t nbytes) {
    AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
    void *base = mmap(NULL, nbytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (base == MAP_FAILED) base = mmap(NULL, nbytes, PROT_READ, MAP_SHARED, fd, 0); /* its writer has sealed it */
    AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
    return base == MAP_FAILED ? NULL : base;
}

/* The whole file, however little of it is asked for: another attachment will want the rest. */
UNSEEN shmt_status shmt_map(int fd, size_t nbytes, bool writable, bool populate, shmt_mapping *mapping) {
    (void)populate;
    struct stat facts;
    if (fstat(fd, &facts) != 0 || (size_t)facts.st_size < nbytes) return SHMT_SYSTEM;
    lock();
    shared_region *region = find(facts.st_dev, facts.st_ino);
    if (region && !region->mappings) {
        uint8_t *base = map_whole(fd, (size_t)facts.st_size);
        if (base)
            *region = (shared_region){facts.st_dev, facts.st_ino, base, (size_t)facts.st_size, 0};
        else
            region = NULL;
    }
    if (region) {
        region->mappings++;
        *mapping = (shmt_mapping){.base = region->base, .nbytes = nbytes, .writable = writable};
    }
    unlock();
    return region ? SHMT_OK : SHMT_SYSTEM;
}

UNSEEN void shmt_unmap(shmt_mapping *mapping) {
    if (!mapping->base) return;
    lock();
    for (shared_region *each = regions; each < regions + REGIONS; each++)
        if (each->mappings && each->base == mapping->base && --each->mappings == 0) munmap(each->base, each->nbytes);
    unlock();
    *mapping = (shmt_mapping){0};
}

UNSEEN uint32_t regions_mapped(void) {
    uint32_t mapped = 0;
    lock();
    for (shared_region *each = regions; each < regions + REGIONS; each++) mapped += each->mappings != 0;
    unlock();
    return mapped;
}
