/* device_face.c - device_memory.h for Python. Each answers the driver's code, 0 for success, and what was asked for. */
#include "device_face.h"

#include "cuda.h"
#include "device_memory.h"

static PyObject *face_load(PyObject *module, PyObject *arguments) {
    const char *path;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "s", &path)) return NULL;
    const char *missing = shmt_device_load(path);
    if (missing) return PyUnicode_FromString(missing);
    Py_RETURN_NONE;
}

static PyObject *face_uuids(PyObject *module, PyObject *unused) {
    (void)module, (void)unused;
    PyObject *uuids = PyList_New(0);
    for (int i = 0, length = shmt_cuda_length(); uuids && i < length; i++) {
        uint8_t uuid[SHMT_DEVICE_UUID_NBYTES] = {0};
        shmt_device_uuid(i, uuid);
        PyObject *found = PyBytes_FromStringAndSize((const char *)uuid, sizeof uuid);
        if (!found || PyList_Append(uuids, found) != 0) Py_CLEAR(uuids);
        Py_XDECREF(found);
    }
    return uuids;
}

static PyObject *face_allocate(PyObject *module, PyObject *arguments) {
    int ordinal, code;
    unsigned long long nbytes;
    uint64_t address = 0;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "iK", &ordinal, &nbytes)) return NULL;
    Py_BEGIN_ALLOW_THREADS
    code = shmt_device_allocate(ordinal, nbytes, &address);
    Py_END_ALLOW_THREADS
    return Py_BuildValue("iK", code, (unsigned long long)address);
}

static PyObject *face_export(PyObject *module, PyObject *arguments) {
    int ordinal, code;
    unsigned long long address;
    uint8_t handle[SHMT_DEVICE_HANDLE_NBYTES] = {0};
    (void)module;
    if (!PyArg_ParseTuple(arguments, "iK", &ordinal, &address)) return NULL;
    Py_BEGIN_ALLOW_THREADS
    code = shmt_device_export(ordinal, address, handle);
    Py_END_ALLOW_THREADS
    return Py_BuildValue("iy#", code, (const char *)handle, (Py_ssize_t)sizeof handle);
}

static PyObject *face_import(PyObject *module, PyObject *arguments) {
    int ordinal, code;
    const char *handle;
    Py_ssize_t handle_nbytes;
    uint64_t address = 0, nbytes = 0;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "iy#", &ordinal, &handle, &handle_nbytes)) return NULL;
    if (handle_nbytes != SHMT_DEVICE_HANDLE_NBYTES) return PyErr_Format(PyExc_ValueError, "a memory handle has %d bytes", SHMT_DEVICE_HANDLE_NBYTES);
    Py_BEGIN_ALLOW_THREADS
    code = shmt_device_import(ordinal, (const uint8_t *)handle, &address, &nbytes);
    Py_END_ALLOW_THREADS
    return Py_BuildValue("iKK", code, (unsigned long long)address, (unsigned long long)nbytes);
}

static PyObject *end(PyObject *arguments, int (*function)(int, uint64_t)) {
    int ordinal, code;
    unsigned long long address;
    if (!PyArg_ParseTuple(arguments, "iK", &ordinal, &address)) return NULL;
    Py_BEGIN_ALLOW_THREADS
    code = function(ordinal, address);
    Py_END_ALLOW_THREADS
    return PyLong_FromLong(code);
}

static PyObject *face_free(PyObject *module, PyObject *arguments) {
    (void)module;
    return end(arguments, shmt_device_free);
}

static PyObject *face_release(PyObject *module, PyObject *arguments) {
    (void)module;
    return end(arguments, shmt_device_release);
}

static PyObject *face_error(PyObject *module, PyObject *arguments) {
    int code;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "i", &code)) return NULL;
    return PyUnicode_FromString(shmt_device_error(code));
}

PyMethodDef shmt_device_methods[] = {
    {"device_load", face_load, METH_VARARGS, "Look for CUDA's driver at a path; what is missing, or None."},
    {"device_uuids", face_uuids, METH_NOARGS, "The UUID of each device that this process sees, by ordinal."},
    {"device_allocate", face_allocate, METH_VARARGS, "(ordinal, nbytes) -> code, address."},
    {"device_export", face_export, METH_VARARGS, "(ordinal, address) -> code, 64 bytes for another process."},
    {"device_import", face_import, METH_VARARGS, "(ordinal, those bytes) -> code, address here, nbytes."},
    {"device_free", face_free, METH_VARARGS, "(ordinal, address) of what was allocated here -> code."},
    {"device_release", face_release, METH_VARARGS, "(ordinal, address) of what was imported here -> code."},
    {"device_error", face_error, METH_VARARGS, "The driver's name of a code."},
    {0},
};
