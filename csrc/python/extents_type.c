/* extents_type.c - Extents: the allocator of extents.h over one segment, for memory that is not a ring's own: a device
 * pool's (shmtransport/device_pool.py). The GIL is its mutex. */
#include "python.h"

#include "extents.h"

typedef struct extents_object {
    PyObject_HEAD
    shmt_extents extents;
} extents_object;

static shmt_extents *extents_of(PyObject *self) { return &((extents_object *)self)->extents; }

static PyObject *extents_new(PyTypeObject *type, PyObject *arguments, PyObject *options) {
    unsigned long long nbytes;
    (void)options;
    if (!PyArg_ParseTuple(arguments, "K", &nbytes)) return NULL;
    allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    PyObject *self = allocate(type, 0); /* zeroed */
    if (!self) return NULL;
    if (shmt_extents_grow(extents_of(self), 0, nbytes) == SHMT_OK) return self;
    Py_DECREF(self);
    return PyErr_NoMemory();
}

static void extents_dealloc(PyObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    shmt_extents_destroy(extents_of(self));
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(self);
    Py_DECREF(type);
}

static PyObject *extents_take(PyObject *self, PyObject *arguments) {
    unsigned long long nbytes;
    shmt_extent extent;
    if (!PyArg_ParseTuple(arguments, "K", &nbytes)) return NULL;
    shmt_status status = shmt_extents_take(extents_of(self), nbytes, &extent);
    if (status == SHMT_NO_MEMORY) return PyErr_NoMemory();
    if (status != SHMT_OK) Py_RETURN_NONE;
    return Py_BuildValue("KK", (unsigned long long)extent.offset, (unsigned long long)extent.nbytes);
}

static PyObject *extents_give(PyObject *self, PyObject *arguments) {
    unsigned long long offset, nbytes;
    if (!PyArg_ParseTuple(arguments, "KK", &offset, &nbytes)) return NULL;
    if (shmt_extents_give(extents_of(self), (shmt_extent){0, offset, nbytes}) != SHMT_OK) return PyErr_NoMemory();
    Py_RETURN_NONE;
}

static PyObject *extents_room(PyObject *self, PyObject *unused) {
    (void)unused;
    const shmt_extents *extents = extents_of(self);
    return Py_BuildValue("KKK", (unsigned long long)extents->used_nbytes, (unsigned long long)extents->total_nbytes,
                         (unsigned long long)shmt_extents_largest(extents));
}

static PyMethodDef extents_methods[] = {
    {"take", extents_take, METH_VARARGS, "(offset, nbytes) of an extent of that many bytes or a little more; None: no room."},
    {"give", extents_give, METH_VARARGS, "Give back (offset, nbytes) as it was taken."},
    {"room", extents_room, METH_NOARGS, "(used, total, largest free extent), in bytes."},
    {0},
};

static PyType_Slot extents_slots[] = {
    {Py_tp_doc, "Which bytes of a range are free: Extents(nbytes)."},
    {Py_tp_new, extents_new},
    {Py_tp_dealloc, extents_dealloc},
    {Py_tp_methods, extents_methods},
    {0, NULL},
};

PyType_Spec shmt_extents_spec = {
    .name = "shmtransport._core.Extents",
    .basicsize = sizeof(extents_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = extents_slots,
};
