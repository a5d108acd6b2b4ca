/* attachment_view.h - what attachment_type.c and attachment_view.c know of each other. */
#ifndef SHMT_ATTACHMENT_VIEW_H
#define SHMT_ATTACHMENT_VIEW_H

#include "python.h"

/* The core's side of an Attachment. */
shmt_attachment *shmt_core_of(PyObject *self);

/* True, or ClosedError or ForkedError is set. */
int shmt_usable(PyObject *self);
PyObject *shmt_raise_status(PyObject *self, shmt_status status);

/* Methods of Attachment that only look. */
PyObject *shmt_view_segment_nbytes(PyObject *self, PyObject *arguments);
PyObject *shmt_view_room(PyObject *self, PyObject *arguments);
PyObject *shmt_view_used_nbytes(PyObject *self, PyObject *arguments);
PyObject *shmt_view_facts(PyObject *self, PyObject *arguments);
PyObject *shmt_view_identity(PyObject *self, PyObject *arguments);
PyObject *shmt_view_rows(PyObject *self, PyObject *arguments);
PyObject *shmt_view_blocks(PyObject *self, PyObject *arguments);
PyObject *shmt_view_unopened(PyObject *self, PyObject *arguments);

#endif
