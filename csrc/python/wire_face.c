#include "wire_face.h"

#include <string.h>

#include "attachment_view.h"
#include "copy_face.h"
#include "tickets.h"
#include "torch_tensors.h"
#include "wait.h"
#include "writer.h"

#define ID_NBYTES 16

static shmt_module_state *state_of(PyObject *self) { return PyType_GetModuleState(Py_TYPE(self)); }

static bool is_held(shmt_attachment *attachment, uintptr_t address, uint64_t nbytes) {
    pthread_mutex_lock(&attachment->mutex);
    bool found = shmt_span_find(attachment, address, nbytes) != NULL;
    pthread_mutex_unlock(&attachment->mutex);
    return found;
}

/* The one copy. */
static shmt_status put(shmt_attachment *attachment, const shmt_plain_tensor *tensor, shmt_lease *lease) {
    shmt_status status = shmt_allocate(attachment, tensor->nbytes, lease);
    if (status != SHMT_OK) return status;
    int64_t began_ns = shmt_now_ns();
    shmt_copy_released(lease->address, tensor->address, tensor->nbytes, attachment->extents.used_nbytes);
    shmt_count_copied(attachment, tensor->nbytes, (uint64_t)(shmt_now_ns() - began_ns));
    return SHMT_OK;
}

static PyObject *handle_of(const shmt_plain_tensor *tensor, const char *ring_id, const shmt_reference *reference) {
    shmt_handle handle;
    uint8_t wire[SHMT_HANDLE_NBYTES_MAX];
    handle.kind = SHMT_KIND_TORCH;
    handle.dtype = tensor->dtype;
    handle.rank = tensor->rank;
    handle.reference = *reference;
    memcpy(handle.ring_id, ring_id, ID_NBYTES);
    memcpy(handle.dims, tensor->dims, tensor->rank * sizeof *handle.dims);
    return PyBytes_FromStringAndSize((const char *)wire, (Py_ssize_t)shmt_handle_write(&handle, wire));
}

static PyObject *shared(shmt_attachment *attachment, const shmt_plain_tensor *tensor, uintptr_t address, const char *ring_id,
                        PyObject *readers) {
    shmt_reference reference;
    shmt_peer_id ids[SHMT_INDICES];
    size_t nbytes = (size_t)PyBytes_Size(readers);
    memcpy(ids, PyBytes_AsString(readers), nbytes);
    shmt_status status = shmt_share(attachment, address, tensor->nbytes, ids, nbytes / sizeof *ids, &reference);
    if (status == SHMT_OK) return handle_of(tensor, ring_id, &reference);
    if (status == SHMT_NOT_JOINED || status == SHMT_NO_TICKET || status == SHMT_UNMAPPABLE) return PyLong_FromLong(status);
    Py_RETURN_NONE;
}

PyObject *shmt_wire_share(PyObject *self, PyObject *const *arguments, Py_ssize_t count) {
    if (count != 4 || !PyBytes_Check(arguments[2]) || PyBytes_Size(arguments[2]) != ID_NBYTES || !PyBytes_Check(arguments[3]) ||
        PyBytes_Size(arguments[3]) % ID_NBYTES || PyBytes_Size(arguments[3]) > ID_NBYTES * (Py_ssize_t)SHMT_INDICES) {
        PyErr_SetString(PyExc_ValueError, "share_plain takes a tensor, a number of bytes, a ring's id and those of up to 32 readers");
        return NULL;
    }
    size_t least_nbytes = PyLong_AsSize_t(arguments[1]);
    if (least_nbytes == (size_t)-1 && PyErr_Occurred()) return NULL;
    shmt_attachment *attachment = shmt_core_of(self);
    shmt_plain_tensor tensor;
    if (!shmt_plain_look(state_of(self), arguments[0], &tensor) || tensor.nbytes < least_nbytes) Py_RETURN_NONE;
    if (shmt_check(attachment) != SHMT_OK) Py_RETURN_NONE;
    const char *ring_id = PyBytes_AsString(arguments[2]);
    uintptr_t address = (uintptr_t)tensor.address;
    if (is_held(attachment, address, tensor.nbytes)) return shared(attachment, &tensor, address, ring_id, arguments[3]);
    shmt_lease lease;
    if (attachment->index != SHMT_WRITER || shmt_is_held_elsewhere(attachment, address, tensor.nbytes)) Py_RETURN_NONE;
    if (put(attachment, &tensor, &lease) != SHMT_OK) Py_RETURN_NONE;
    PyObject *sent = shared(attachment, &tensor, (uintptr_t)lease.address, ring_id, arguments[3]);
    shmt_lease_end(attachment, lease.entry, lease.generation);
    return sent;
}

static PyObject *opened(PyObject *self, shmt_handle *handle) {
    shmt_attachment *attachment = shmt_core_of(self);
    shmt_lease lease;
    uint32_t segment;
    handle->reference.nbytes = shmt_plain_nbytes(state_of(self), handle);
    if (!handle->reference.nbytes) Py_RETURN_NONE;
    shmt_plain_shell *shell = shmt_plain_shell_new(handle);
    if (!shell) return PyErr_NoMemory();
    if (shmt_lease_open(attachment, &handle->reference, &lease, &segment) == SHMT_OK)
        return shmt_plain_make(state_of(self), shell, attachment, &lease);
    shmt_plain_shell_free(shell);
    Py_RETURN_NONE;
}

PyObject *shmt_wire_open(PyObject *self, PyObject *const *arguments, Py_ssize_t count) {
    Py_buffer wire;
    shmt_handle handle;
    if (count != 2 || !PyBytes_Check(arguments[1]) || PyBytes_Size(arguments[1]) != ID_NBYTES) {
        PyErr_SetString(PyExc_ValueError, "open_plain takes a handle's bytes and a ring's id");
        return NULL;
    }
    if (PyObject_GetBuffer(arguments[0], &wire, PyBUF_SIMPLE) != 0) {
        PyErr_Clear();
        Py_RETURN_NONE;
    }
    bool readable = shmt_handle_read(&handle, wire.buf, (size_t)wire.len);
    PyBuffer_Release(&wire);
    if (!readable || memcmp(handle.ring_id, PyBytes_AsString(arguments[1]), ID_NBYTES) != 0) Py_RETURN_NONE;
    return opened(self, &handle);
}
