/* copy_face.h - the copy kernels' functions in shmtransport._core. Python's face of them is shmtransport/copying.py. */
#ifndef SHMT_COPY_FACE_H
#define SHMT_COPY_FACE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

/* shmt_copy(), during which other Python threads run if it is a large one. */
void shmt_copy_released(void *dst, const void *src, size_t nbytes, uint64_t footprint_nbytes);

/* For PyModule_AddFunctions(); ends with an empty entry. They keep no state in the module. */
extern PyMethodDef shmt_copy_methods[];

#endif
