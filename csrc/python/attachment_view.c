/* attachment_view.c - the shared state as Python sees it: rows, blocks, room. Takes no lease. */
#include <string.h>

#include "attachment_view.h"
#include "tickets.h"
#include "writer.h"

PyObject *shmt_view_segment_nbytes(PyObject *self, PyObject *arguments) {
    unsigned int number;
    if (!PyArg_ParseTuple(arguments, "I", &number) || !shmt_usable(self)) return NULL;
    if (number >= SHMT_SEGMENTS) return shmt_raise_status(self, SHMT_CORRUPT);
    shmt_attachment *attachment = shmt_core_of(self);
    pthread_mutex_lock(&attachment->mutex);
    uint64_t nbytes = attachment->segments[number].nbytes;
    pthread_mutex_unlock(&attachment->mutex);
    if (nbytes == 0) nbytes = atomic_load_explicit(&attachment->segment_nbytes[number], memory_order_relaxed);
    return PyLong_FromUnsignedLongLong(nbytes);
}

PyObject *shmt_view_room(PyObject *self, PyObject *unused) {
    (void)unused;
    if (!shmt_usable(self)) return NULL;
    shmt_room room;
    shmt_room_now(shmt_core_of(self), &room);
    return Py_BuildValue("KKKI", (unsigned long long)room.used_nbytes, (unsigned long long)room.total_nbytes,
                         (unsigned long long)room.largest_nbytes, room.live);
}

PyObject *shmt_view_used_nbytes(PyObject *self, PyObject *unused) {
    (void)unused;
    return PyLong_FromUnsignedLongLong(shmt_core_of(self)->extents.used_nbytes);
}

PyObject *shmt_view_facts(PyObject *self, PyObject *unused) {
    (void)unused;
    if (!shmt_usable(self)) return NULL;
    shmt_attachment *attachment = shmt_core_of(self);
    pthread_mutex_lock(&attachment->mutex);
    uint32_t segments = attachment->segments_length;
    pthread_mutex_unlock(&attachment->mutex);
    if (attachment->index != SHMT_WRITER) segments = atomic_load(&attachment->header->segments);
    return Py_BuildValue("IIIKK", attachment->index, segments, attachment->entries_length,
                         (unsigned long long)attachment->capacity_nbytes, (unsigned long long)attachment->ordinary_nbytes);
}

static unsigned long long counter(const _Atomic uint64_t *value) {
    return atomic_load_explicit((_Atomic uint64_t *)value, memory_order_relaxed);
}

static PyObject *describe_row(shmt_attachment *attachment, uint32_t r) {
    const shmt_row *row = &attachment->rows[r];
    uint64_t id[2] = {counter(&row->id_low), counter(&row->id_high)};
    char name[SHMT_NAME_NBYTES + 1] = {0};
    memcpy(name, row->name, SHMT_NAME_NBYTES);
    PyObject *label = PyUnicode_DecodeUTF8(name, (Py_ssize_t)strlen(name), "replace");
    if (!label) return NULL;
    const _Atomic uint64_t *n = row->inline_transfers;
    return Py_BuildValue("Iy#OIIKKN(KKKKKKKKK)(KKKKKKKK)", r, (const char *)id, (Py_ssize_t)16,
                         shmt_lock_is_held(&attachment->file, r) ? Py_True : Py_False,
                         atomic_load((_Atomic uint32_t *)&row->epoch), row->pid, (unsigned long long)row->start_time,
                         (unsigned long long)row->joined_ns, label, counter(&row->written_nbytes), counter(&row->writes),
                         counter(&row->shared), counter(&row->opened), counter(&row->opened_nbytes), counter(&row->reaps),
                         counter(&row->wait_ns), counter(&row->revoked), counter(&row->copied_nbytes), counter(&n[0]), counter(&n[1]), counter(&n[2]),
                         counter(&n[3]), counter(&n[4]), counter(&n[5]), counter(&n[6]), counter(&n[7]));
}

PyObject *shmt_view_rows(PyObject *self, PyObject *unused) {
    (void)unused;
    if (!shmt_usable(self)) return NULL;
    PyObject *rows = PyList_New(0);
    for (uint32_t r = 0; rows && r < SHMT_INDICES; r++) {
        bool present = counter(&shmt_core_of(self)->rows[r].id_high) || shmt_lock_is_held(&shmt_core_of(self)->file, r);
        if (!present) continue;
        PyObject *row = describe_row(shmt_core_of(self), r);
        if (!row || PyList_Append(rows, row) != 0) Py_CLEAR(rows);
        Py_XDECREF(row);
    }
    return rows;
}

PyObject *shmt_view_blocks(PyObject *self, PyObject *unused) {
    (void)unused;
    if (!shmt_usable(self)) return NULL;
    PyObject *blocks = PyList_New(0);
    for (uint32_t e = 0; blocks && e < shmt_core_of(self)->entries_length; e++) {
        const shmt_entry *entry = &shmt_core_of(self)->entries[e];
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

PyObject *shmt_view_unopened(PyObject *self, PyObject *unused) {
    (void)unused;
    if (!shmt_usable(self)) return NULL;
    shmt_unopened sent[SHMT_TICKETS];
    uint32_t length = shmt_unopened_now(shmt_core_of(self), sent);
    PyObject *unopened = PyList_New(0);
    for (uint32_t i = 0; unopened && i < length; i++) {
        PyObject *handle = Py_BuildValue("II", sent[i].entry, sent[i].mask);
        if (!handle || PyList_Append(unopened, handle) != 0) Py_CLEAR(unopened);
        Py_XDECREF(handle);
    }
    return unopened;
}
