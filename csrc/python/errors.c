/* errors.c - the one table from statuses to exceptions, and the one function that raises. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

#include "python.h"

static const struct {
    shmt_status status;
    const char *class_name; /* in shmtransport.errors */
    const char *text;
} table[] = {
    {SHMT_FULL, "RingFullError", "no room in the ring"},
    {SHMT_NO_ENTRY, "RingFullError", "every entry of the block table is live"},
    {SHMT_NOT_FOUND, "HandleError", "the address lies in no block that this process holds"},
    {SHMT_NOT_JOINED, "PeerDeadError", "the reader has not joined this ring"},
    {SHMT_NO_TICKET, "RingFullError", "too many handles are in flight"},
    {SHMT_UNMAPPABLE, "SegmentError", "the reader cannot map a segment of this ring"},
    {SHMT_STALE, "StaleHandleError", "the block was given back before the handle was opened; send it again"},
    {SHMT_BAD_HANDLE, "HandleError", "the handle names something that does not exist in its ring"},
    {SHMT_NEED_SEGMENT, "InternalError", "a segment is not mapped"},
    {SHMT_BUSY, "InternalError", "a lock byte is held by another process"},
    {SHMT_GONE, "SegmentNotFoundError", "the ring is gone: its writer has left"},
    {SHMT_NO_INDEX, "RingFullError", "all 31 reader indices of the ring are taken; such a reader is served inline"},
    {SHMT_NOT_READY, "SegmentNotFoundError", "the ring is still being created; join again"},
    {SHMT_MISMATCH, "LayoutMismatchError", "the ring has another layout"},
    {SHMT_CORRUPT, "CorruptSegmentError", "the segment's sizes contradict each other"},
    {SHMT_DENIED, "SegmentError", "the segment belongs to another user or is open to others"},
    {SHMT_UNSEALED, "CorruptSegmentError", "a segment was handed over that is not a sealed memfd"},
    {SHMT_TIMEOUT, "WaitTimeoutError", "no room before the deadline"},
    {SHMT_CLOSED, "ClosedError", "the ring or reader was closed"},
    {SHMT_FORKED, "ForkedError", "made before this process was forked; join or create anew in the child"},
};

PyObject *shmt_raise(shmt_module_state *state, shmt_status status, const char *format, ...) {
    if (status == SHMT_SYSTEM) return PyErr_SetFromErrno(PyExc_OSError);
    if (status == SHMT_NO_MEMORY) return PyErr_NoMemory();
    const char *class_name = "InternalError", *text = "unknown status";
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (table[i].status == status) {
            class_name = table[i].class_name;
            text = table[i].text;
        }
    PyObject *class = PyObject_GetAttrString(state->errors, class_name);
    if (!class) return NULL;
    if (format) {
        va_list arguments;
        va_start(arguments, format);
        PyErr_FormatV(class, format, arguments);
        va_end(arguments);
    } else {
        PyErr_SetString(class, text);
    }
    Py_DECREF(class);
    return NULL;
}

PyObject *shmt_raise_mismatch(shmt_module_state *state, const shmt_found *found) {
    char both[160]; /* Python 3.11 formats no 64-bit hexadecimal numbers by itself */
    snprintf(both, sizeof both, "expected layout %u, signature %llx, features 0; found layout %u, signature %llx, features %x",
             SHMT_LAYOUT_VERSION, (unsigned long long)SHMT_SIGNATURE, found->version, (unsigned long long)found->signature,
             found->features);
    return shmt_raise(state, SHMT_MISMATCH, "%s: install the same version of shmtransport in both processes", both);
}
