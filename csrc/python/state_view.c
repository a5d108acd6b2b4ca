/* state_view.c - the shared state as Python sees it; and a look at a ring from outside.
 *
 * Who looks from outside takes no place, no lease and no lock, and maps nothing: it reads a copy of the control
 * segment. Whatever is done to the segment meanwhile, a copy can be cut short, but is never a SIGBUS. A copy is not
 * atomic: words are whole, but one may be later than another. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "state_view.h"

#define MOST_NBYTES (1 << 27) /* no control segment is as large as that */

static unsigned long long word_at(const _Atomic uint64_t *value) {
    return atomic_load_explicit((_Atomic uint64_t *)value, memory_order_relaxed);
}

PyObject *shmt_describe_identity(const shmt_state *state) {
    const shmt_header *header = state->header;
    uint32_t segments = atomic_load((_Atomic uint32_t *)&header->segments);
    if (segments > SHMT_SEGMENTS) segments = SHMT_SEGMENTS;
    PyObject *sizes = PyTuple_New((Py_ssize_t)segments);
    for (uint32_t i = 0; sizes && i < segments; i++) {
        PyObject *size = PyLong_FromUnsignedLongLong(word_at(&state->segment_nbytes[i]));
        if (!size || PyTuple_SetItem(sizes, (Py_ssize_t)i, size) != 0) Py_CLEAR(sizes);
    }
    if (!sizes) return NULL;
    return Py_BuildValue("y#IIKKKN", (const char *)header->ring_id, (Py_ssize_t)sizeof header->ring_id, header->backing,
                         state->entries_length, (unsigned long long)header->capacity_nbytes,
                         (unsigned long long)header->segment_nbytes, (unsigned long long)header->created_ns, sizes);
}

static PyObject *describe_row(const shmt_state *state, uint32_t r) {
    const shmt_row *row = &state->rows[r];
    uint64_t id[2] = {word_at(&row->id_low), word_at(&row->id_high)};
    char name[SHMT_NAME_NBYTES + 1] = {0};
    memcpy(name, row->name, SHMT_NAME_NBYTES);
    PyObject *label = PyUnicode_DecodeUTF8(name, (Py_ssize_t)strlen(name), "replace");
    if (!label) return NULL;
    const _Atomic uint64_t *n = row->inline_transfers;
    return Py_BuildValue("Iy#OIIKKN(KKKKKKKKKK)(KKKKKKKK)", r, (const char *)id, (Py_ssize_t)16,
                         shmt_lock_is_held(state->file, r) ? Py_True : Py_False,
                         atomic_load((_Atomic uint32_t *)&row->epoch), row->pid, (unsigned long long)row->start_time,
                         (unsigned long long)row->joined_ns, label, word_at(&row->written_nbytes), word_at(&row->writes),
                         word_at(&row->shared), word_at(&row->opened), word_at(&row->opened_nbytes), word_at(&row->reaps),
                         word_at(&row->wait_ns), word_at(&row->revoked), word_at(&row->copied_nbytes), word_at(&row->copy_ns),
                         word_at(&n[0]), word_at(&n[1]), word_at(&n[2]), word_at(&n[3]), word_at(&n[4]), word_at(&n[5]),
                         word_at(&n[6]), word_at(&n[7]));
}

PyObject *shmt_describe_rows(const shmt_state *state) {
    PyObject *rows = PyList_New(0);
    for (uint32_t r = 0; rows && r < SHMT_INDICES; r++) {
        if (!word_at(&state->rows[r].id_high) && !shmt_lock_is_held(state->file, r)) continue;
        PyObject *row = describe_row(state, r);
        if (!row || PyList_Append(rows, row) != 0) Py_CLEAR(rows);
        Py_XDECREF(row);
    }
    return rows;
}

PyObject *shmt_describe_blocks(const shmt_state *state) {
    PyObject *blocks = PyList_New(0);
    for (uint32_t e = 0; blocks && e < state->entries_length; e++) {
        const shmt_entry *entry = &state->entries[e];
        uint64_t word = atomic_load_explicit((_Atomic uint64_t *)&entry->word, memory_order_acquire);
        if (!shmt_word_mask(word)) continue;
        PyObject *block = Py_BuildValue("IIIIKKK", e, shmt_word_high(word), shmt_word_mask(word), entry->segment,
                                        (unsigned long long)entry->offset, (unsigned long long)entry->nbytes,
                                        (unsigned long long)entry->charged_ns);
        if (!block || PyList_Append(blocks, block) != 0) Py_CLEAR(blocks);
        Py_XDECREF(block);
    }
    return blocks;
}

/* For each index, how many handles from living senders it has still to open. */
static PyObject *describe_unopened(const shmt_state *state, const _Atomic uint64_t *tickets) {
    unsigned int unopened[SHMT_INDICES] = {0};
    for (uint32_t sender = 0; sender < SHMT_INDICES; sender++) {
        if (!shmt_lock_is_held(state->file, sender)) continue;
        for (uint32_t t = 0; t < SHMT_TICKETS; t++)
            for (uint32_t mask = shmt_word_mask(word_at(&tickets[sender * SHMT_TICKETS + t])); mask; mask &= mask - 1)
                unopened[__builtin_ctz(mask)]++;
    }
    PyObject *counts = PyTuple_New(SHMT_INDICES);
    for (uint32_t r = 0; counts && r < SHMT_INDICES; r++) {
        PyObject *count = PyLong_FromUnsignedLong(unopened[r]);
        if (!count || PyTuple_SetItem(counts, (Py_ssize_t)r, count) != 0) Py_CLEAR(counts);
    }
    return counts;
}

/* Whether this build understands such a copy. */
static shmt_status inspect(const shmt_header *header, uint64_t nbytes) {
    uint32_t version = header->version;
    if (nbytes < SHMT_PAGE_NBYTES) return nbytes ? SHMT_CORRUPT : SHMT_NOT_READY;
    if (version == 0) return SHMT_NOT_READY;
    if (header->magic != SHMT_MAGIC) return SHMT_CORRUPT;
    if (version != SHMT_LAYOUT_VERSION || header->signature != SHMT_SIGNATURE || header->features) return SHMT_MISMATCH;
    bool fits = header->control_nbytes == nbytes && shmt_control_nbytes(header->entries) == nbytes;
    return fits ? SHMT_OK : SHMT_CORRUPT;
}

/* Reads until `nbytes` or the file's end; how many there were, or -1 with errno. */
static ssize_t read_whole(int fd, char *copy, size_t nbytes) {
    size_t length = 0;
    while (length < nbytes) {
        ssize_t some = pread(fd, copy + length, nbytes - length, (off_t)length);
        if (some < 0 && errno == EINTR) continue;
        if (some < 0) return -1;
        if (some == 0) break;
        length += (size_t)some;
    }
    return (ssize_t)length;
}

static PyObject *describe_copy(const char *copy, const shmt_file *file) {
    const shmt_header *header = (const shmt_header *)copy;
    shmt_state state = {
        .header = header,
        .rows = (const shmt_row *)(copy + SHMT_ROWS_OFFSET),
        .segment_nbytes = (const _Atomic uint64_t *)(copy + SHMT_SIZES_OFFSET),
        .entries = (const shmt_entry *)(copy + SHMT_ENTRIES_OFFSET),
        .entries_length = header->entries,
        .file = file,
    };
    PyObject *identity = shmt_describe_identity(&state);
    PyObject *rows = identity ? shmt_describe_rows(&state) : NULL;
    PyObject *blocks = rows ? shmt_describe_blocks(&state) : NULL;
    PyObject *unopened =
        blocks ? describe_unopened(&state, (const _Atomic uint64_t *)(copy + SHMT_TICKETS_OFFSET)) : NULL;
    PyObject *seen = unopened ? PyTuple_Pack(4, identity, rows, blocks, unopened) : NULL;
    Py_XDECREF(identity);
    Py_XDECREF(rows);
    Py_XDECREF(blocks);
    Py_XDECREF(unopened);
    return seen;
}

PyObject *shmt_core_look(PyObject *module, PyObject *arguments) {
    int fd;
    struct stat facts;
    if (!PyArg_ParseTuple(arguments, "i", &fd)) return NULL;
    if (fstat(fd, &facts) != 0) return PyErr_SetFromErrno(PyExc_OSError);
    uint64_t nbytes = facts.st_size < MOST_NBYTES ? (uint64_t)facts.st_size : MOST_NBYTES;
    char *copy = aligned_alloc(SHMT_PAGE_NBYTES, (nbytes / SHMT_PAGE_NBYTES + 1) * SHMT_PAGE_NBYTES);
    if (!copy) return PyErr_NoMemory();
    memset(copy, 0, SHMT_PAGE_NBYTES);
    ssize_t length;
    Py_BEGIN_ALLOW_THREADS
    length = read_whole(fd, copy, nbytes);
    Py_END_ALLOW_THREADS
    PyObject *seen = NULL;
    shmt_file file = {0};
    shmt_status status = length < 0 ? SHMT_SYSTEM : inspect((const shmt_header *)copy, (uint64_t)length);
    if (status == SHMT_OK) status = shmt_file_init(&file, fd, "");
    if (status == SHMT_OK) {
        seen = describe_copy(copy, &file);
        shmt_file_close(&file);
    } else if (status == SHMT_MISMATCH) {
        const shmt_header *header = (const shmt_header *)copy;
        shmt_found found = {header->magic, header->signature, header->version, header->features};
        shmt_raise_mismatch(PyModule_GetState(module), &found);
    } else {
        shmt_raise(PyModule_GetState(module), status, NULL);
    }
    free(copy);
    return seen;
}

PyObject *shmt_core_held(PyObject *module, PyObject *arguments) {
    int fd;
    shmt_file file = {0};
    if (!PyArg_ParseTuple(arguments, "i", &fd)) return NULL;
    shmt_status status = shmt_file_init(&file, fd, "");
    if (status != SHMT_OK) return shmt_raise(PyModule_GetState(module), status, NULL);
    uint32_t mask = 0;
    for (uint32_t r = 0; r < SHMT_INDICES; r++)
        if (shmt_lock_is_held(&file, r)) mask |= shmt_bit(r);
    shmt_file_close(&file);
    return PyLong_FromUnsignedLong(mask);
}
