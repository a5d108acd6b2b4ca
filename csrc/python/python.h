/* python.h - what the files of this folder share: the only place that includes Python.h.
 *
 * Limited API of 3.11, multi-phase initialisation, heap types, all state in the module: one wheel serves
 * every Python from 3.11 on, subinterpreters included. */
#ifndef SHMT_PYTHON_H
#define SHMT_PYTHON_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "leases.h"

typedef struct shmt_module_state {
    PyObject *errors; /* the module shmtransport.errors */
    PyTypeObject *attachment_type;
    PyTypeObject *lease_type;
    /* What torch_tensors.c knows of torch; NULL: nothing, or this torch has no such table. */
    const struct shmt_dlpack_exchange *exchange;
    PyObject *tensor_type, *is_neg; /* torch.Tensor and its method */
    PyObject *dtype, *dtype_codes;  /* the attribute's name; a dict from torch's dtypes to those of handles */
} shmt_module_state;

extern PyType_Spec shmt_attachment_spec;
extern PyType_Spec shmt_lease_spec;
extern PyType_Spec shmt_extents_spec;

/* Sets the exception that `status` maps to; `format` replaces the table's text. Returns NULL. */
PyObject *shmt_raise(shmt_module_state *state, shmt_status status, const char *format, ...);

/* The same for SHMT_MISMATCH, with both sides. */
PyObject *shmt_raise_mismatch(shmt_module_state *state, const shmt_found *found);

/* An empty Lease to be filled by shmt_lease_fill(): made before the mutex is taken, since nothing inside it
 * may call Python. An unfilled one ends nothing. */
PyObject *shmt_lease_new(shmt_module_state *state);
void shmt_lease_fill(PyObject *self, shmt_attachment *attachment, const shmt_lease *lease);

#endif
