#define _GNU_SOURCE
#include "attachment.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "kill_points.h"
#include "seals.h"
#include "tickets.h"
#include "wait.h"

static shmt_status begin(int fd, const char *prefix, shmt_attachment **out) {
    shmt_attachment *attachment = calloc(1, sizeof *attachment);
    if (!attachment) return SHMT_NO_MEMORY;
    pthread_mutex_init(&attachment->mutex, NULL);
    attachment->fork_epoch = shmt_fork_epoch();
    attachment->users = 1;
    strncpy(attachment->prefix, prefix, sizeof attachment->prefix - 1);
    *out = attachment;
    return shmt_file_init(&attachment->file, fd, prefix);
}

/* Hands a made attachment out, or takes a half-made one down. */
static shmt_status finish(shmt_status status, shmt_attachment *attachment, shmt_attachment **out) {
    if (status == SHMT_OK) {
        shmt_list_add(attachment);
        *out = attachment;
    } else if (attachment) {
        int saved = errno;
        shmt_destroy(attachment);
        errno = saved;
    }
    return status;
}

static shmt_status map_control(shmt_attachment *attachment, uint32_t entries) {
    shmt_status status = shmt_map(attachment->file.fd, shmt_control_nbytes(entries), true, true, &attachment->control);
    if (status != SHMT_OK) return status;
    uint8_t *base = attachment->control.base;
    attachment->header = (shmt_header *)base;
    attachment->rows = (shmt_row *)(base + SHMT_ROWS_OFFSET);
    attachment->segment_nbytes = (_Atomic uint64_t *)(base + SHMT_SIZES_OFFSET);
    attachment->tickets = (_Atomic uint64_t *)(base + SHMT_TICKETS_OFFSET);
    attachment->entries = (shmt_entry *)(base + SHMT_ENTRIES_OFFSET);
    attachment->entries_length = entries;
    attachment->locals = calloc(entries, sizeof *attachment->locals);
    for (uint32_t i = 0; i < SHMT_TICKETS; i++) attachment->free_tickets[i] = (uint16_t)(SHMT_TICKETS - 1 - i);
    attachment->free_length = SHMT_TICKETS;
    return attachment->locals ? SHMT_OK : SHMT_NO_MEMORY;
}

/* Row `index` tells who we are; the id last, so that a sender that sees it sees the rest (SYNC E-JOIN). */
static void sign_row(shmt_attachment *attachment, const shmt_peer *peer) {
    shmt_row *row = &attachment->rows[attachment->index];
    atomic_store_explicit(&row->id_high, 0, memory_order_relaxed);
    atomic_fetch_add_explicit(&row->epoch, 1, memory_order_seq_cst);
    SHMT_KILL_POINT("join.epoch");
    atomic_store_explicit(&row->unmappable, 0, memory_order_relaxed);
    row->pid = peer->pid;
    row->start_time = peer->start_time;
    row->joined_ns = (uint64_t)shmt_now_ns();
    memcpy(row->name, peer->name, sizeof row->name);
    memset((uint8_t *)row + offsetof(shmt_row, written_nbytes), 0, sizeof *row - offsetof(shmt_row, written_nbytes));
    atomic_store_explicit(&row->id_low, peer->id_low, memory_order_relaxed);
    atomic_store_explicit(&row->id_high, peer->id_high, memory_order_release);
    SHMT_KILL_POINT("join.id");
}

static void see_epochs(shmt_attachment *attachment) {
    for (uint32_t r = 0; r < SHMT_INDICES; r++)
        attachment->epoch_seen[r] = atomic_load_explicit(&attachment->rows[r].epoch, memory_order_acquire);
}

/* An anonymous segment never had a name. */
static bool is_linked(const shmt_attachment *attachment) {
    struct stat facts;
    return shmt_is_anonymous(attachment) || (fstat(attachment->file.fd, &facts) == 0 && facts.st_nlink != 0);
}

static uint64_t realtime_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * 1000000000ull + (uint64_t)now.tv_nsec;
}

/* What has no name is handed over: readers get these descriptors from us. */
static shmt_status prepare_serving(shmt_attachment *attachment) {
    if (!shmt_is_anonymous(attachment)) return SHMT_OK;
    shmt_status status = shmt_seal(attachment->file.fd, false);
    if (status == SHMT_OK) status = shmt_serving_create(&attachment->serving);
    return status == SHMT_OK ? shmt_serving_add(attachment->serving, 0, attachment->file.fd) : status;
}

static shmt_status prepare_writer(shmt_attachment *attachment, uint32_t entries) {
    attachment->held = calloc(entries, sizeof *attachment->held);
    attachment->live = calloc(entries, sizeof *attachment->live);
    attachment->free_entries = calloc(entries, sizeof *attachment->free_entries);
    if (!attachment->held || !attachment->live || !attachment->free_entries) return SHMT_NO_MEMORY;
    for (uint32_t i = 0; i < entries; i++) attachment->free_entries[i] = i;
    attachment->free_entries_length = entries;
    return SHMT_OK;
}

static shmt_status create(shmt_attachment *attachment, const shmt_shape *shape, const shmt_peer *peer) {
    shmt_status status = shmt_lock_hold(&attachment->file, SHMT_WRITER, &attachment->lock);
    if (status == SHMT_BUSY) return SHMT_GONE;
    if (status != SHMT_OK) return status;
    if (!is_linked(attachment)) return SHMT_GONE;
    int error;
    while ((error = posix_fallocate(attachment->file.fd, 0, (off_t)shmt_control_nbytes(shape->entries))) == EINTR) {}
    if (error) {
        errno = error;
        return SHMT_SYSTEM;
    }
    SHMT_KILL_POINT("create.sized");
    if ((status = map_control(attachment, shape->entries)) != SHMT_OK) return status;
    if ((status = prepare_writer(attachment, shape->entries)) != SHMT_OK) return status;
    if ((status = prepare_serving(attachment)) != SHMT_OK) return status;
    shmt_header *header = attachment->header;
    header->magic = SHMT_MAGIC;
    header->signature = SHMT_SIGNATURE;
    memcpy(header->ring_id, shape->ring_id, sizeof header->ring_id);
    memcpy(header->boot_id, shape->boot_id, sizeof header->boot_id);
    header->backing = shape->backing;
    header->entries = shape->entries;
    header->capacity_nbytes = shape->capacity_nbytes;
    header->segment_nbytes = shape->segment_nbytes;
    header->control_nbytes = shmt_control_nbytes(shape->entries);
    header->created_ns = realtime_ns();
    sign_row(attachment, peer);
    see_epochs(attachment);
    return SHMT_OK;
}

shmt_status shmt_create(int fd, const char *prefix, const shmt_shape *shape, const shmt_peer *peer, shmt_attachment **out) {
    shmt_attachment *attachment = NULL;
    shmt_status status = begin(fd, prefix, &attachment);
    if (status == SHMT_OK) status = create(attachment, shape, peer);
    return finish(status, attachment, out);
}

shmt_status shmt_publish(shmt_attachment *attachment) {
    /* SYNC A-READY: everything above is seen by whoever reads this version with acquire. */
    atomic_store_explicit(&attachment->header->version, SHMT_LAYOUT_VERSION, memory_order_release);
    SHMT_KILL_POINT("create.published");
    return SHMT_OK;
}

/* Looks before touching: a control segment that is too small for its own header would be a SIGBUS. */
static shmt_status inspect(const shmt_attachment *attachment, shmt_found *found, uint32_t *entries) {
    struct stat facts;
    shmt_mapping page;
    if (fstat(attachment->file.fd, &facts) != 0) return SHMT_SYSTEM;
    if (!S_ISREG(facts.st_mode) || facts.st_uid != geteuid() || (facts.st_mode & 077)) return SHMT_DENIED;
    if (facts.st_size == 0) return SHMT_NOT_READY;
    if ((uint64_t)facts.st_size < SHMT_PAGE_NBYTES) return SHMT_CORRUPT;
    if (shmt_is_anonymous(attachment) && !shmt_is_sealed(attachment->file.fd, false)) return SHMT_UNSEALED;
    shmt_status status = shmt_map(attachment->file.fd, SHMT_PAGE_NBYTES, false, false, &page);
    if (status != SHMT_OK) return status;
    const shmt_header *header = (const shmt_header *)page.base;
    /* SYNC A-READY */
    found->version = atomic_load_explicit(&((shmt_header *)page.base)->version, memory_order_acquire);
    found->magic = header->magic;
    found->signature = header->signature;
    found->features = header->features;
    *entries = header->entries;
    if (found->version == 0)
        status = SHMT_NOT_READY;
    else if (found->magic != SHMT_MAGIC)
        status = SHMT_CORRUPT;
    else if (found->version != SHMT_LAYOUT_VERSION || found->signature != SHMT_SIGNATURE || found->features)
        status = SHMT_MISMATCH;
    else if (header->backing != (shmt_is_anonymous(attachment) ? SHMT_BACKING_MEMFD : SHMT_BACKING_POSIX))
        status = SHMT_CORRUPT;
    else if (header->control_nbytes != shmt_control_nbytes(*entries) || header->control_nbytes != (uint64_t)facts.st_size)
        status = SHMT_CORRUPT;
    shmt_unmap(&page);
    return status;
}

/* Ticket row `index` belonged to somebody who died: no handle of theirs is in flight any more. The
 * sequences go on, so that a late acknowledgement of theirs matches nothing of ours. */
static void wipe_tickets(shmt_attachment *attachment) {
    _Atomic uint64_t *row = attachment->tickets + attachment->index * SHMT_TICKETS;
    for (uint32_t i = 0; i < SHMT_TICKETS; i++)
        atomic_fetch_and_explicit(&row[i], ~(uint64_t)UINT32_MAX, memory_order_relaxed);
    SHMT_KILL_POINT("join.tickets");
}

static shmt_status join(shmt_attachment *attachment, const shmt_peer *peer, shmt_found *found) {
    uint32_t entries;
    shmt_status status = inspect(attachment, found, &entries);
    if (status != SHMT_OK) return status;
    status = SHMT_NO_INDEX;
    for (uint32_t r = SHMT_WRITER + 1; r < SHMT_INDICES; r++) {
        status = shmt_lock_hold(&attachment->file, r, &attachment->lock);
        attachment->index = r;
        if (status != SHMT_BUSY) break;
    }
    if (status != SHMT_OK) return status == SHMT_BUSY ? SHMT_NO_INDEX : status;
    if (!is_linked(attachment) || !shmt_lock_is_held(&attachment->file, SHMT_WRITER)) return SHMT_GONE;
    if ((status = map_control(attachment, entries)) != SHMT_OK) return status;
    shmt_clear_everywhere(attachment, attachment->index);
    wipe_tickets(attachment);
    sign_row(attachment, peer);
    see_epochs(attachment);
    return SHMT_OK;
}

shmt_status shmt_join(int fd, const char *prefix, const shmt_peer *peer, shmt_found *found, shmt_attachment **out) {
    shmt_attachment *attachment = NULL;
    shmt_status status = begin(fd, prefix, &attachment);
    if (status == SHMT_OK) status = join(attachment, peer, found);
    if (status != SHMT_OK && attachment && attachment->lock.page) {
        /* Whoever was the last one out meanwhile found our byte taken: the names are ours to remove. */
        int saved = errno;
        shmt_lock_release(&attachment->lock);
        if (!shmt_is_anonymous(attachment)) shmt_names_unlink_leaving(&attachment->file, attachment->prefix);
        errno = saved;
    }
    return finish(status, attachment, out);
}

/* To the allocator, and to readers if it has no name to open. The allocator comes last: it takes nothing back. */
static shmt_status offer_segment(shmt_attachment *attachment, uint32_t number, int fd, uint64_t nbytes) {
    if (shmt_is_anonymous(attachment)) {
        shmt_status status = shmt_seal(fd, true);
        if (status == SHMT_OK) status = shmt_serving_add(attachment->serving, number + 1, fd);
        if (status != SHMT_OK) return status;
    }
    return shmt_extents_grow(&attachment->extents, number, nbytes);
}

shmt_status shmt_add_segment(shmt_attachment *attachment, uint32_t number, int fd, uint64_t nbytes, bool writable) {
    struct stat facts;
    if (number >= SHMT_SEGMENTS || nbytes == 0 || nbytes % SHMT_PAGE_NBYTES) return SHMT_CORRUPT;
    if (fstat(fd, &facts) != 0) return SHMT_SYSTEM;
    if (facts.st_uid != geteuid() || (facts.st_mode & 077)) return SHMT_DENIED;
    if ((uint64_t)facts.st_size != nbytes) return SHMT_CORRUPT;
    bool is_writer = attachment->index == SHMT_WRITER;
    if (shmt_is_anonymous(attachment) && !is_writer && !shmt_is_sealed(fd, true)) return SHMT_UNSEALED;
    shmt_mapping mapping;
    shmt_status status = shmt_map(fd, nbytes, writable, true, &mapping);
    if (status != SHMT_OK) return status;
    pthread_mutex_lock(&attachment->mutex);
    if (attachment->segments[number].base) {
        shmt_unmap(&mapping); /* another thread was quicker */
    } else if (is_writer && (status = offer_segment(attachment, number, fd, nbytes)) != SHMT_OK) {
        shmt_unmap(&mapping);
    } else {
        attachment->segments[number] = mapping;
        if (is_writer) {
            atomic_store_explicit(&attachment->segment_nbytes[number], nbytes, memory_order_relaxed);
            /* SYNC D-SEGMENT: an entry that names this segment is stored only after its size. */
            atomic_store_explicit(&attachment->header->segments, number + 1, memory_order_release);
            SHMT_KILL_POINT("grow.published");
        }
    }
    pthread_mutex_unlock(&attachment->mutex);
    return status;
}

shmt_status shmt_check(const shmt_attachment *attachment) {
    if (attachment->fork_epoch != shmt_fork_epoch()) return SHMT_FORKED;
    return attachment->closed ? SHMT_CLOSED : SHMT_OK;
}

shmt_status shmt_serve(shmt_attachment *attachment, int listener, const char *path) {
    return attachment->serving ? shmt_serving_start(attachment->serving, listener, path) : SHMT_CORRUPT;
}
