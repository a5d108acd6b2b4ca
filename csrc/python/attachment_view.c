/* attachment_view.c - methods of Attachment that only look. They take no lease. */
#include "attachment_view.h"
#include "state_view.h"
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

static shmt_state state_of(PyObject *self) {
    shmt_attachment *attachment = shmt_core_of(self);
    return (shmt_state){
        .header = attachment->header,
        .rows = attachment->rows,
        .segment_nbytes = attachment->segment_nbytes,
        .entries = attachment->entries,
        .entries_length = attachment->entries_length,
        .file = &attachment->file,
    };
}

PyObject *shmt_view_identity(PyObject *self, PyObject *unused) {
    (void)unused;
    if (!shmt_usable(self)) return NULL;
    shmt_state state = state_of(self);
    return shmt_describe_identity(&state);
}

PyObject *shmt_view_rows(PyObject *self, PyObject *unused) {
    (void)unused;
    if (!shmt_usable(self)) return NULL;
    shmt_state state = state_of(self);
    return shmt_describe_rows(&state);
}

PyObject *shmt_view_blocks(PyObject *self, PyObject *unused) {
    (void)unused;
    if (!shmt_usable(self)) return NULL;
    shmt_state state = state_of(self);
    return shmt_describe_blocks(&state);
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
