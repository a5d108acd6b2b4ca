/* device_face.h - functions about device memory in shmtransport._core. Python's face of them is
 * shmtransport/device_memory.py. */
#ifndef SHMT_DEVICE_FACE_H
#define SHMT_DEVICE_FACE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

/* For PyModule_AddFunctions(); ends with an empty entry. They keep no state in the module. */
extern PyMethodDef shmt_device_methods[];

#endif
