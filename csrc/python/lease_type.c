/* lease_type.c - Lease: the object behind a ring-backed tensor's storage.
 *
 * torch.frombuffer gives the Py_buffer back at once and keeps the object, so the lease ends in tp_dealloc,
 * not in bf_releasebuffer (seen on torch 2.13). It exports itself as writable over read-only mappings too:
 * torch has no read-only tensors and would warn; a stray in-place write then faults, which is the point. */
#include "python.h"

typedef struct lease_object {
    PyObject_HEAD
    shmt_attachment *attachment; /* NULL: nothing to end */
    shmt_lease lease;
} lease_object;

static shmt_lease *lease_of(PyObject *self) { return &((lease_object *)self)->lease; }

PyObject *shmt_lease_new(shmt_module_state *state) {
    allocfunc allocate = (allocfunc)PyType_GetSlot(state->lease_type, Py_tp_alloc);
    lease_object *self = (lease_object *)allocate(state->lease_type, 0);
    if (self) self->attachment = NULL;
    return (PyObject *)self;
}

void shmt_lease_fill(PyObject *self, shmt_attachment *attachment, const shmt_lease *lease) {
    ((lease_object *)self)->attachment = attachment;
    ((lease_object *)self)->lease = *lease;
}

static void lease_dealloc(PyObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    if (((lease_object *)self)->attachment) shmt_lease_end(((lease_object *)self)->attachment, lease_of(self)->entry, lease_of(self)->generation);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(self);
    Py_DECREF(type);
}

static int lease_getbuffer(PyObject *self, Py_buffer *view, int requested) {
    if (!((lease_object *)self)->attachment) {
        PyErr_SetString(PyExc_BufferError, "an empty lease");
        return -1;
    }
    return PyBuffer_FillInfo(view, self, lease_of(self)->address, (Py_ssize_t)lease_of(self)->nbytes, 0, requested);
}

static PyObject *lease_address(PyObject *self, void *closure) {
    (void)closure;
    return PyLong_FromVoidPtr(lease_of(self)->address);
}
static PyObject *lease_nbytes(PyObject *self, void *closure) {
    (void)closure;
    return PyLong_FromUnsignedLongLong(lease_of(self)->nbytes);
}
static PyObject *lease_entry(PyObject *self, void *closure) {
    (void)closure;
    return PyLong_FromUnsignedLong(lease_of(self)->entry);
}
static PyObject *lease_generation(PyObject *self, void *closure) {
    (void)closure;
    return PyLong_FromUnsignedLong(lease_of(self)->generation);
}
static PyObject *lease_writable(PyObject *self, void *closure) {
    (void)closure;
    return PyBool_FromLong(lease_of(self)->writable);
}

static PyGetSetDef lease_getset[] = {
    {"address", lease_address, NULL, "Address of the first byte in this process.", NULL},
    {"nbytes", lease_nbytes, NULL, "Bytes of the block that this lease exports.", NULL},
    {"entry", lease_entry, NULL, "Index in the block table.", NULL},
    {"generation", lease_generation, NULL, "Which reuse of the entry.", NULL},
    {"writable", lease_writable, NULL, "False: a write faults.", NULL},
    {0},
};

static PyType_Slot lease_slots[] = {
    {Py_tp_doc, "One claim on a block; ends when the last object over its buffer dies. Any thread may drop it."},
    {Py_tp_dealloc, lease_dealloc},
    {Py_tp_getset, lease_getset},
    {Py_bf_getbuffer, lease_getbuffer},
    {0, NULL},
};

PyType_Spec shmt_lease_spec = {
    .name = "shmtransport._core.Lease",
    .basicsize = sizeof(lease_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = lease_slots,
};
