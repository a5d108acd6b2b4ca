/* module.c - the extension module shmtransport._core. */
#include "python.h"

#include "copy_face.h"
#include "cuda.h"
#include "device_face.h"
#include "keeper.h"
#include "names.h"
#include "state_view.h"
#include "torch_tensors.h"

static PyObject *core_fork_epoch(PyObject *module, PyObject *unused) {
    (void)module, (void)unused;
    return PyLong_FromUnsignedLong(shmt_fork_epoch());
}

static PyObject *core_leave_all(PyObject *module, PyObject *unused) {
    (void)module, (void)unused;
    shmt_leave_all();
    Py_RETURN_NONE;
}

static PyObject *core_unlink_names(PyObject *module, PyObject *arguments) {
    int fd;
    const char *prefix;
    if (!PyArg_ParseTuple(arguments, "is", &fd, &prefix)) return NULL;
    shmt_file file = {0};
    shmt_status status = shmt_file_init(&file, fd, prefix);
    if (status == SHMT_OK) status = shmt_names_unlink(&file, prefix);
    shmt_file_close(&file);
    if (status == SHMT_OK || status == SHMT_BUSY) return PyBool_FromLong(status == SHMT_OK);
    return shmt_raise(PyModule_GetState(module), status, NULL);
}

static PyObject *core_cuda_load(PyObject *module, PyObject *arguments) {
    (void)module;
    const char *path;
    if (!PyArg_ParseTuple(arguments, "s", &path)) return NULL;
    const char *missing = shmt_cuda_load(path);
    if (missing) return PyUnicode_FromString(missing);
    Py_RETURN_NONE;
}

static PyObject *core_capturing(PyObject *module, PyObject *arguments) {
    (void)module;
    int change;
    if (!PyArg_ParseTuple(arguments, "i", &change)) return NULL;
    Py_BEGIN_ALLOW_THREADS
    shmt_capturing(change);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

static PyObject *core_kept(PyObject *module, PyObject *unused) {
    (void)module, (void)unused;
    return PyLong_FromUnsignedLongLong(shmt_kept());
}

static PyObject *core_pinned_nbytes(PyObject *module, PyObject *unused) {
    (void)module, (void)unused;
    return PyLong_FromUnsignedLongLong(shmt_cuda_registered_nbytes());
}

static PyMethodDef core_methods[] = {
    {"fork_epoch", core_fork_epoch, METH_NOARGS, "How many forks lie between the original process and this one."},
    {"leave_all", core_leave_all, METH_NOARGS, "The process ends: give up every lock, remove what nobody uses."},
    {"cuda_load", core_cuda_load, METH_VARARGS, "Look for CUDA's driver; what is missing, or None."},
    {"capturing", core_capturing, METH_VARARGS, "A CUDA graph's capture begins (+1) or has ended (-1)."},
    {"kept", core_kept, METH_NOARGS, "Leases that wait for an event."},
    {"pinned_nbytes", core_pinned_nbytes, METH_NOARGS, "Bytes of segments that are registered for DMA."},
    {"look", shmt_core_look, METH_VARARGS, "What the ring of a control segment (descriptor) is doing, seen from outside."},
    {"held", shmt_core_held, METH_VARARGS, "Mask of the indices whose lock bytes of a control segment (descriptor) are held."},
    {"know_torch", shmt_know_torch, METH_VARARGS, "Learn (torch.Tensor, {dtype: code}); whether it has DLPack's table for C."},
    {"unlink_names", core_unlink_names, METH_VARARGS, "Remove a ring's names if nobody holds any of its lock bytes."},
    {0},
};

static int add_constants(PyObject *module) {
    static const struct {
        const char *name;
        unsigned long long value;
    } constants[] = {
        {"LAYOUT_VERSION", SHMT_LAYOUT_VERSION},
        {"SIGNATURE", SHMT_SIGNATURE},
        {"INDICES", SHMT_INDICES},
        {"TICKETS", SHMT_TICKETS},
        {"SEGMENTS", SHMT_SEGMENTS},
        {"NAME_NBYTES", SHMT_NAME_NBYTES},
        {"PAGE_NBYTES", SHMT_PAGE_NBYTES},
        {"LINE_NBYTES", SHMT_LINE_NBYTES},
        {"PAGED_BLOCK_NBYTES", SHMT_PAGED_BLOCK_NBYTES},
        {"ENTRY_NBYTES", sizeof(shmt_entry)},
        {"ENTRIES_OFFSET", SHMT_ENTRIES_OFFSET},
        {"BACKING_POSIX", SHMT_BACKING_POSIX},
        {"BACKING_MEMFD", SHMT_BACKING_MEMFD},
        {"INLINE_SMALL", SHMT_INLINE_SMALL},
        {"INLINE_NOT_JOINED", SHMT_INLINE_NOT_JOINED},
        {"INLINE_FULL", SHMT_INLINE_FULL},
        {"INLINE_NO_TICKET", SHMT_INLINE_NO_TICKET},
        {"INLINE_UNMAPPABLE", SHMT_INLINE_UNMAPPABLE},
        {"INLINE_ELSEWHERE", SHMT_INLINE_ELSEWHERE},
        {"INLINE_NOT_BACKED", SHMT_INLINE_NOT_BACKED},
        {"FULL", SHMT_FULL},
        {"NO_ENTRY", SHMT_NO_ENTRY},
        {"TIMEOUT", SHMT_TIMEOUT},
        {"CUDA_ABSENT", SHMT_CUDA_ABSENT},
        {"NOT_FOUND", SHMT_NOT_FOUND},
        {"NOT_JOINED", SHMT_NOT_JOINED},
        {"NO_TICKET", SHMT_NO_TICKET},
        {"UNMAPPABLE", SHMT_UNMAPPABLE},
    };
    PyObject *layout = PyDict_New();
    if (!layout) return -1;
    for (size_t i = 0; i < sizeof constants / sizeof *constants; i++) {
        PyObject *value = PyLong_FromUnsignedLongLong(constants[i].value);
        int failed = !value || PyDict_SetItemString(layout, constants[i].name, value) != 0;
        Py_XDECREF(value);
        if (failed) {
            Py_DECREF(layout);
            return -1;
        }
    }
    int failed = PyModule_AddObjectRef(module, "CONSTANTS", layout);
    Py_DECREF(layout);
    return failed;
}

static int core_exec(PyObject *module) {
    shmt_module_state *state = PyModule_GetState(module);
    state->errors = PyImport_ImportModule("shmtransport.errors");
    if (!state->errors) return -1;
    state->attachment_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &shmt_attachment_spec, NULL);
    if (!state->attachment_type || PyModule_AddType(module, state->attachment_type) != 0) return -1;
    state->lease_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &shmt_lease_spec, NULL);
    if (!state->lease_type || PyModule_AddType(module, state->lease_type) != 0) return -1;
    PyObject *extents_type = PyType_FromModuleAndSpec(module, &shmt_extents_spec, NULL);
    if (!extents_type || PyModule_AddType(module, (PyTypeObject *)extents_type) != 0) {
        Py_XDECREF(extents_type);
        return -1;
    }
    Py_DECREF(extents_type);
    if (PyModule_AddFunctions(module, shmt_copy_methods) != 0) return -1;
    if (PyModule_AddFunctions(module, shmt_device_methods) != 0) return -1;
    return add_constants(module);
}

static int core_traverse(PyObject *module, visitproc visit, void *arg) {
    shmt_module_state *state = PyModule_GetState(module);
    Py_VISIT(state->errors);
    Py_VISIT(state->attachment_type);
    Py_VISIT(state->lease_type);
    Py_VISIT(state->tensor_type);
    Py_VISIT(state->is_neg);
    Py_VISIT(state->dtype_codes);
    return 0;
}

static int core_clear(PyObject *module) {
    shmt_module_state *state = PyModule_GetState(module);
    Py_CLEAR(state->errors);
    Py_CLEAR(state->attachment_type);
    Py_CLEAR(state->lease_type);
    state->exchange = NULL;
    Py_CLEAR(state->tensor_type);
    Py_CLEAR(state->is_neg);
    Py_CLEAR(state->dtype);
    Py_CLEAR(state->dtype_codes);
    return 0;
}

static PyModuleDef_Slot core_slots[] = {
    {Py_mod_exec, core_exec},
    {0, NULL},
};

static struct PyModuleDef core_module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "shmtransport._core",
    .m_doc = "The C core: shared state, leases, waits and copies. Its faces are shmtransport/attachment.py and copying.py.",
    .m_size = sizeof(shmt_module_state),
    .m_methods = core_methods,
    .m_slots = core_slots,
    .m_traverse = core_traverse,
    .m_clear = core_clear,
};

PyMODINIT_FUNC PyInit__core(void);
PyMODINIT_FUNC PyInit__core(void) { return PyModuleDef_Init(&core_module); }
