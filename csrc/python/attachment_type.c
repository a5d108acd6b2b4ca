/* attachment_type.c - Attachment: a process's place in one ring, as shmtransport/attachment.py sees it. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "attachment_view.h"
#include "keeper.h"
#include "kill_points.h"
#include "python.h"
#include "tickets.h"
#include "wire_face.h"
#include "writer.h"

typedef struct attachment_object {
    PyObject_HEAD
    shmt_attachment *attachment;
} attachment_object;

shmt_attachment *shmt_core_of(PyObject *self) { return ((attachment_object *)self)->attachment; }

static shmt_module_state *state_of(PyTypeObject *type) { return PyType_GetModuleState(type); }

PyObject *shmt_raise_status(PyObject *self, shmt_status status) {
    return shmt_raise(state_of(Py_TYPE(self)), status, NULL);
}

/* True, or an exception is set. */
int shmt_usable(PyObject *self) {
    shmt_status status = shmt_check(shmt_core_of(self));
    if (status != SHMT_OK) shmt_raise_status(self, status);
    return status == SHMT_OK;
}

static PyObject *wrap(PyTypeObject *type, shmt_attachment *attachment) {
    allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    attachment_object *self = (attachment_object *)allocate(type, 0);
    if (self)
        self->attachment = attachment;
    else
        shmt_drop(attachment);
    return (PyObject *)self;
}

static int read_peer(shmt_peer *peer, const char *id, Py_ssize_t id_nbytes, const char *name, Py_ssize_t name_nbytes) {
    if (id_nbytes != 16) {
        PyErr_SetString(PyExc_ValueError, "a peer id has 16 bytes");
        return 0;
    }
    memcpy(&peer->id_low, id, 8);
    memcpy(&peer->id_high, id + 8, 8);
    if (name_nbytes > (Py_ssize_t)sizeof peer->name - 1) name_nbytes = sizeof peer->name - 1;
    memcpy(peer->name, name, (size_t)name_nbytes);
    return 1;
}

static PyObject *attachment_create(PyObject *type, PyObject *arguments) {
    int fd;
    const char *prefix, *ring_id, *boot_id, *peer_id, *name;
    Py_ssize_t ring_nbytes, boot_nbytes, peer_nbytes, name_nbytes;
    unsigned int backing, entries, pid;
    unsigned long long capacity, segment, start_time;
    if (!PyArg_ParseTuple(arguments, "isy#y#IIKKy#s#IK", &fd, &prefix, &ring_id, &ring_nbytes, &boot_id, &boot_nbytes, &backing,
                          &entries, &capacity, &segment, &peer_id, &peer_nbytes, &name, &name_nbytes, &pid, &start_time))
        return NULL;
    shmt_peer peer = {.pid = pid, .start_time = start_time};
    if (!read_peer(&peer, peer_id, peer_nbytes, name, name_nbytes)) return NULL;
    if (ring_nbytes != 16 || boot_nbytes != 16 || entries == 0) {
        PyErr_SetString(PyExc_ValueError, "ring and boot ids have 16 bytes, a block table at least one entry");
        return NULL;
    }
    shmt_shape shape = {.backing = backing, .entries = entries, .capacity_nbytes = capacity, .segment_nbytes = segment};
    memcpy(shape.ring_id, ring_id, 16);
    memcpy(shape.boot_id, boot_id, 16);
    shmt_attachment *attachment;
    shmt_status status = shmt_create(fd, prefix, &shape, &peer, &attachment);
    return status == SHMT_OK ? wrap((PyTypeObject *)type, attachment) : shmt_raise(state_of((PyTypeObject *)type), status, NULL);
}

static PyObject *attachment_join(PyObject *type, PyObject *arguments) {
    int fd;
    const char *prefix, *peer_id, *name;
    Py_ssize_t peer_nbytes, name_nbytes;
    unsigned int pid;
    unsigned long long start_time;
    if (!PyArg_ParseTuple(arguments, "isy#s#IK", &fd, &prefix, &peer_id, &peer_nbytes, &name, &name_nbytes, &pid, &start_time))
        return NULL;
    shmt_peer peer = {.pid = pid, .start_time = start_time};
    if (!read_peer(&peer, peer_id, peer_nbytes, name, name_nbytes)) return NULL;
    shmt_found found = {0};
    shmt_attachment *attachment;
    shmt_status status = shmt_join(fd, prefix, &peer, &found, &attachment);
    if (status == SHMT_OK) return wrap((PyTypeObject *)type, attachment);
    if (status == SHMT_MISMATCH) return shmt_raise_mismatch(state_of((PyTypeObject *)type), &found);
    return shmt_raise(state_of((PyTypeObject *)type), status, NULL);
}

static void attachment_dealloc(PyObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    shmt_close(shmt_core_of(self));
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(self);
    Py_DECREF(type);
}

static PyObject *attachment_add_segment(PyObject *self, PyObject *arguments) {
    unsigned int number;
    int fd, writable;
    unsigned long long nbytes;
    if (!PyArg_ParseTuple(arguments, "IiKp", &number, &fd, &nbytes, &writable) || !shmt_usable(self)) return NULL;
    shmt_status status;
    Py_BEGIN_ALLOW_THREADS
    status = shmt_add_segment(shmt_core_of(self), number, fd, nbytes, writable);
    Py_END_ALLOW_THREADS
    if (status != SHMT_OK) return shmt_raise_status(self, status);
    Py_RETURN_NONE;
}

static PyObject *attachment_publish(PyObject *self, PyObject *unused) {
    (void)unused;
    if (!shmt_usable(self)) return NULL;
    shmt_publish(shmt_core_of(self));
    Py_RETURN_NONE;
}

static PyObject *attachment_serve(PyObject *self, PyObject *arguments) {
    int listener;
    const char *path;
    if (!PyArg_ParseTuple(arguments, "is", &listener, &path) || !shmt_usable(self)) return NULL;
    shmt_status status = shmt_serve(shmt_core_of(self), listener, path);
    if (status != SHMT_OK) return shmt_raise_status(self, status);
    Py_RETURN_NONE;
}

static PyObject *attachment_allocate(PyObject *self, PyObject *arguments) {
    unsigned long long nbytes;
    double wait_s = 0;
    if (!PyArg_ParseTuple(arguments, "K|d", &nbytes, &wait_s)) return NULL;
    PyObject *made = shmt_lease_new(state_of(Py_TYPE(self)));
    if (!made) return NULL;
    shmt_lease lease;
    shmt_status status;
    if (wait_s > 0) {
        Py_BEGIN_ALLOW_THREADS
        status = shmt_allocate_wait(shmt_core_of(self), nbytes, (int64_t)(wait_s * 1e9), &lease);
        Py_END_ALLOW_THREADS
    } else {
        status = shmt_allocate(shmt_core_of(self), nbytes, &lease);
    }
    if (status == SHMT_OK) {
        shmt_lease_fill(made, shmt_core_of(self), &lease);
        return made;
    }
    Py_DECREF(made);
    if (status == SHMT_FULL || status == SHMT_NO_ENTRY || status == SHMT_TIMEOUT) return PyLong_FromLong(status);
    return shmt_raise_status(self, status);
}

static PyObject *attachment_open(PyObject *self, PyObject *arguments) {
    shmt_reference reference;
    unsigned long long offset, nbytes;
    if (!PyArg_ParseTuple(arguments, "IIKKIII", &reference.entry, &reference.generation, &offset, &nbytes, &reference.sender,
                          &reference.ticket, &reference.sequence))
        return NULL;
    reference.offset = offset;
    reference.nbytes = nbytes;
    PyObject *made = shmt_lease_new(state_of(Py_TYPE(self)));
    if (!made) return NULL;
    shmt_lease lease;
    uint32_t segment = 0;
    shmt_status status = shmt_lease_open(shmt_core_of(self), &reference, &lease, &segment);
    if (status == SHMT_OK) {
        shmt_lease_fill(made, shmt_core_of(self), &lease);
        return made;
    }
    Py_DECREF(made);
    if (status == SHMT_NEED_SEGMENT) return PyLong_FromUnsignedLong(segment);
    return shmt_raise_status(self, status);
}

static int read_readers(shmt_peer_id *readers, const char *ids, Py_ssize_t ids_nbytes) {
    if (ids_nbytes % 16 || ids_nbytes > 16 * (Py_ssize_t)SHMT_INDICES) {
        PyErr_SetString(PyExc_ValueError, "readers are at most 32 ids of 16 bytes each");
        return 0;
    }
    if (ids_nbytes) memcpy(readers, ids, (size_t)ids_nbytes);
    return 1;
}

static PyObject *attachment_acknowledge(PyObject *self, PyObject *arguments) {
    unsigned int sender, ticket, sequence;
    if (!PyArg_ParseTuple(arguments, "III", &sender, &ticket, &sequence) || !shmt_usable(self)) return NULL;
    if (sender >= SHMT_INDICES || ticket >= SHMT_TICKETS) return shmt_raise_status(self, SHMT_BAD_HANDLE);
    shmt_ticket_acknowledge(shmt_core_of(self), sender, ticket, sequence);
    Py_RETURN_NONE;
}

static PyObject *attachment_share(PyObject *self, PyObject *arguments) {
    unsigned long long address, nbytes;
    const char *ids;
    Py_ssize_t ids_nbytes;
    if (!PyArg_ParseTuple(arguments, "KKy#", &address, &nbytes, &ids, &ids_nbytes)) return NULL;
    shmt_peer_id readers[SHMT_INDICES];
    if (!read_readers(readers, ids, ids_nbytes)) return NULL;
    shmt_reference reference;
    shmt_status status = shmt_share(shmt_core_of(self), (uintptr_t)address, nbytes, readers, (size_t)ids_nbytes / 16, &reference);
    if (status == SHMT_OK)
        return Py_BuildValue("IIKIII", reference.entry, reference.generation, (unsigned long long)reference.offset,
                             reference.sender, reference.ticket, reference.sequence);
    if (status == SHMT_NOT_FOUND || status == SHMT_NOT_JOINED || status == SHMT_NO_TICKET || status == SHMT_UNMAPPABLE)
        return PyLong_FromLong(status);
    return shmt_raise_status(self, status);
}

static PyObject *attachment_revoke(PyObject *self, PyObject *arguments) {
    unsigned int ticket, sequence;
    const char *ids = NULL;
    Py_ssize_t ids_nbytes = 0;
    shmt_peer_id readers[SHMT_INDICES];
    if (!PyArg_ParseTuple(arguments, "II|y#", &ticket, &sequence, &ids, &ids_nbytes)) return NULL;
    if (shmt_core_of(self)->fork_epoch != shmt_fork_epoch()) return shmt_raise_status(self, SHMT_FORKED);
    if (!read_readers(readers, ids, ids_nbytes)) return NULL;
    return PyBool_FromLong(shmt_revoke(shmt_core_of(self), ticket, sequence, readers, (size_t)ids_nbytes / 16));
}

static PyObject *attachment_holds(PyObject *self, PyObject *arguments) {
    unsigned long long address, nbytes;
    if (!PyArg_ParseTuple(arguments, "KK", &address, &nbytes)) return NULL;
    shmt_attachment *attachment = shmt_core_of(self);
    if (attachment->fork_epoch != shmt_fork_epoch()) Py_RETURN_FALSE;
    pthread_mutex_lock(&attachment->mutex);
    int found = shmt_span_find(attachment, (uintptr_t)address, nbytes) != NULL;
    pthread_mutex_unlock(&attachment->mutex);
    return PyBool_FromLong(found);
}

static PyObject *attachment_is_alive(PyObject *self, PyObject *arguments) {
    unsigned int index;
    if (!PyArg_ParseTuple(arguments, "I", &index) || !shmt_usable(self)) return NULL;
    return PyBool_FromLong(shmt_lock_is_held(&shmt_core_of(self)->file, index));
}

static PyObject *attachment_holders(PyObject *self, PyObject *arguments) {
    unsigned int entry, generation;
    if (!PyArg_ParseTuple(arguments, "II", &entry, &generation) || !shmt_usable(self)) return NULL;
    shmt_attachment *attachment = shmt_core_of(self);
    if (attachment->index != SHMT_WRITER || entry >= attachment->entries_length) return shmt_raise_status(self, SHMT_BAD_HANDLE);
    return PyLong_FromUnsignedLong(shmt_holders(attachment, entry, generation));
}

static PyObject *attachment_released(PyObject *self, PyObject *unused) {
    (void)unused;
    if (!shmt_usable(self)) return NULL;
    return PyLong_FromUnsignedLong(shmt_released(shmt_core_of(self)));
}

static PyObject *attachment_wait_released(PyObject *self, PyObject *arguments) {
    unsigned int released;
    double timeout_s;
    if (!PyArg_ParseTuple(arguments, "Id", &released, &timeout_s)) return NULL;
    shmt_status status;
    Py_BEGIN_ALLOW_THREADS
    status = shmt_wait_released(shmt_core_of(self), released, (int64_t)(timeout_s * 1e9));
    Py_END_ALLOW_THREADS
    if (status != SHMT_OK) return shmt_raise_status(self, status);
    Py_RETURN_NONE;
}

static PyObject *attachment_settle(PyObject *self, PyObject *unused) {
    (void)unused;
    shmt_attachment *attachment = shmt_core_of(self);
    if (attachment->fork_epoch != shmt_fork_epoch()) return shmt_raise_status(self, SHMT_FORKED);
    pthread_mutex_lock(&attachment->mutex);
    uint32_t open = shmt_settle(attachment, UINT32_MAX, true);
    pthread_mutex_unlock(&attachment->mutex);
    return PyLong_FromUnsignedLong(open);
}

static PyObject *attachment_reap(PyObject *self, PyObject *unused) {
    (void)unused;
    if (!shmt_usable(self)) return NULL;
    uint32_t reaped;
    Py_BEGIN_ALLOW_THREADS
    reaped = shmt_reap(shmt_core_of(self));
    Py_END_ALLOW_THREADS
    return PyLong_FromUnsignedLong(reaped);
}

static PyObject *attachment_abandon(PyObject *self, PyObject *unused) {
    (void)unused;
    if (shmt_core_of(self)->fork_epoch != shmt_fork_epoch()) return shmt_raise_status(self, SHMT_FORKED);
    shmt_abandon(shmt_core_of(self));
    Py_RETURN_NONE;
}

static PyObject *attachment_count_inline(PyObject *self, PyObject *arguments) {
    unsigned int reason;
    if (!PyArg_ParseTuple(arguments, "I", &reason) || !shmt_usable(self)) return NULL;
    if (reason >= SHMT_INLINE_REASONS) return shmt_raise_status(self, SHMT_CORRUPT);
    shmt_row *row = &shmt_core_of(self)->rows[shmt_core_of(self)->index];
    atomic_fetch_add_explicit(&row->inline_transfers[reason], 1, memory_order_relaxed);
    SHMT_KILL_POINT("count.inline");
    Py_RETURN_NONE;
}

static PyObject *attachment_count_copied(PyObject *self, PyObject *arguments) {
    unsigned long long nbytes, copy_ns;
    if (!PyArg_ParseTuple(arguments, "KK", &nbytes, &copy_ns) || !shmt_usable(self)) return NULL;
    shmt_count_copied(shmt_core_of(self), nbytes, copy_ns);
    Py_RETURN_NONE;
}

static PyObject *attachment_declare_unmappable(PyObject *self, PyObject *arguments) {
    int unmappable;
    if (!PyArg_ParseTuple(arguments, "p", &unmappable) || !shmt_usable(self)) return NULL;
    shmt_row *row = &shmt_core_of(self)->rows[shmt_core_of(self)->index];
    atomic_store_explicit(&row->unmappable, (uint32_t)unmappable, memory_order_release);
    SHMT_KILL_POINT("row.unmappable");
    Py_RETURN_NONE;
}

static PyObject *attachment_keep(PyObject *self, PyObject *unused) {
    (void)unused;
    shmt_status status = shmt_keep(shmt_core_of(self));
    if (status != SHMT_OK) return shmt_raise_status(self, status);
    Py_RETURN_NONE;
}

static PyObject *attachment_pin(PyObject *self, PyObject *arguments) {
    unsigned int number;
    int code = 0;
    if (!PyArg_ParseTuple(arguments, "I", &number)) return NULL;
    shmt_status status;
    Py_BEGIN_ALLOW_THREADS
    status = shmt_pin(shmt_core_of(self), number, &code);
    Py_END_ALLOW_THREADS
    if (status != SHMT_OK) return shmt_raise_status(self, status);
    return PyLong_FromLong(code);
}

#define METHOD(name, arguments, doc) {#name, attachment_##name, arguments, doc}

static PyMethodDef attachment_methods[] = {
    METHOD(create, METH_VARARGS | METH_CLASS, "Turn a new, empty control segment into a ring's; not yet published."),
    METHOD(join, METH_VARARGS | METH_CLASS, "Join the ring behind a control segment as a reader."),
    METHOD(add_segment, METH_VARARGS, "Map data segment (number, fd, nbytes, writable)."),
    METHOD(publish, METH_NOARGS, "Store the version: from now on readers can join."),
    METHOD(serve, METH_VARARGS, "Hand the descriptors of an anonymous ring over on (listener, path)."),
    METHOD(allocate, METH_VARARGS, "A Lease on a new block of nbytes, or the status FULL, NO_ENTRY, TIMEOUT."),
    METHOD(open, METH_VARARGS, "A Lease on what a handle names, or the number of the segment to map first."),
    METHOD(acknowledge, METH_VARARGS, "Tell (sender, ticket, sequence) that its handle will not be opened here."),
    METHOD(share, METH_VARARGS, "Take a ticket: (entry, generation, offset, sender, ticket, sequence), or a status."),
    METHOD(revoke, METH_VARARGS, "Take a ticket back, for (ticket, sequence, all or these readers); False if it was settled."),
    METHOD(holds, METH_VARARGS, "Whether (address, nbytes) lies in a block that has a tensor here."),
    METHOD(is_alive, METH_VARARGS, "Whether the lock byte of an index is held."),
    METHOD(holders, METH_VARARGS, "Mask of the indices that hold the block (entry, generation); 0: it was given back. For the writer."),
    METHOD(released, METH_NOARGS, "A count that changes whenever a block has lost its last lease."),
    METHOD(wait_released, METH_VARARGS, "Wait for a change of it: (released, timeout_s), 50 ms at most."),
    METHOD(settle, METH_NOARGS, "Settle what can be settled; the number of tickets still open."),
    METHOD(reap, METH_NOARGS, "Give back what dead readers held; how many there were."),
    METHOD(abandon, METH_NOARGS, "To the others this process dies now. For tests."),
    METHOD(count_inline, METH_VARARGS, "Count a transfer that went inline, by reason."),
    METHOD(count_copied, METH_VARARGS, "Count a copy of put: (nbytes, ns)."),
    METHOD(keep, METH_NOARGS, "Leases of this attachment end by event from now on; the driver must be loaded."),
    METHOD(pin, METH_VARARGS, "Register a data segment for DMA; the driver's answer, 0 if it has."),
    METHOD(declare_unmappable, METH_VARARGS, "Ask the senders for inline transfers from now on, or no longer."),
    {"share_plain", (PyCFunction)(void (*)(void))shmt_wire_share, METH_FASTCALL, "(tensor, least_nbytes, ring_id, readers): its handle's bytes, a status, or None."},
    {"open_plain", (PyCFunction)(void (*)(void))shmt_wire_open, METH_FASTCALL, "The tensor behind (handle's bytes, ring_id), or None."},
    {"segment_nbytes", shmt_view_segment_nbytes, METH_VARARGS, "Published size of a data segment."},
    {"room", shmt_view_room, METH_NOARGS, "(used, total, largest free extent, live blocks), in bytes."},
    {"used_nbytes", shmt_view_used_nbytes, METH_NOARGS, "Bytes in blocks not yet collected: the ring's footprint as the writer last knew it."},
    {"facts", shmt_view_facts, METH_NOARGS, "(index, segments, entries, capacity_nbytes, segment_nbytes)."},
    {"identity", shmt_view_identity, METH_NOARGS, "What the ring's header says, and the size of each of its segments."},
    {"rows", shmt_view_rows, METH_NOARGS, "Every signed row of the reader table."},
    {"blocks", shmt_view_blocks, METH_NOARGS, "Every leased block."},
    {"unopened", shmt_view_unopened, METH_NOARGS, "(entry, mask of who has not opened it) of every handle sent from here."},
    {0},
};

static PyType_Slot attachment_slots[] = {
    {Py_tp_doc, "One process's place in one ring: lock, mappings, leases and tickets. Thread-safe."},
    {Py_tp_dealloc, attachment_dealloc},
    {Py_tp_methods, attachment_methods},
    {0, NULL},
};

PyType_Spec shmt_attachment_spec = {
    .name = "shmtransport._core.Attachment",
    .basicsize = sizeof(attachment_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = attachment_slots,
};
