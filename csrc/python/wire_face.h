/* wire_face.h - methods of Attachment that make a tensor's handle, and open one, in a single call.
 *
 * They do what shmtransport/endpoint.py and ring.py do in many, for plain tensors (torch_tensors.h) and only where
 * nothing is in the way. None means that nothing was done: the many calls take it from there, and say what is wrong. */
#ifndef SHMT_WIRE_FACE_H
#define SHMT_WIRE_FACE_H

#include "python.h"

/* share_plain(tensor, least_nbytes, ring_id, readers): written into the ring if this is its writer's and no ring of this
 * process has it, shared, and its handle's bytes. None also where it has fewer bytes. A status: it cannot travel by
 * handle, as for `share`. */
PyObject *shmt_wire_share(PyObject *self, PyObject *const *arguments, Py_ssize_t count);

/* open_plain(wire, ring_id): the tensor behind a handle's bytes. */
PyObject *shmt_wire_open(PyObject *self, PyObject *const *arguments, Py_ssize_t count);

#endif
