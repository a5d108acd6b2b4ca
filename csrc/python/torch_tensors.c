#include "torch_tensors.h"

#include <stdlib.h>
#include <string.h>

#include "dlpack.h"

/* By the codes of shmtransport/dtypes.py. */
static const shmt_dlpack_dtype dtypes[] = {
    {6, 8, 1},                                           /* bool */
    {1, 8, 1}, {1, 16, 1}, {1, 32, 1}, {1, 64, 1},       /* uint8 to uint64 */
    {0, 8, 1}, {0, 16, 1}, {0, 32, 1}, {0, 64, 1},       /* int8 to int64 */
    {2, 16, 1}, {4, 16, 1}, {2, 32, 1}, {2, 64, 1},      /* float16, bfloat16, float32, float64 */
    {5, 32, 1}, {5, 64, 1}, {5, 128, 1},                 /* complex32 to complex128 */
    {10, 8, 1}, {11, 8, 1}, {12, 8, 1}, {13, 8, 1}, {14, 8, 1}, /* float8_e4m3fn to float8_e8m0fnu */
};
#define DTYPES (sizeof dtypes / sizeof *dtypes)
#define IS_COMPLEX(dtype) ((dtype).code == 5)

struct shmt_plain_shell {
    shmt_dlpack_lent lent; /* first: torch gives back what it was lent */
    shmt_attachment *attachment;
    uint32_t entry, generation;
    int64_t sizes[]; /* dims, then strides */
};

/* The table of the version that is spoken here, if `type` has it. */
static const shmt_dlpack_exchange *exchange_of(PyObject *type) {
    PyObject *capsule = PyObject_GetAttrString(type, SHMT_DLPACK_ATTRIBUTE);
    const shmt_dlpack_exchange *exchange = capsule ? PyCapsule_GetPointer(capsule, SHMT_DLPACK_CAPSULE) : NULL;
    Py_XDECREF(capsule);
    PyErr_Clear();
    while (exchange && exchange->version.major != SHMT_DLPACK_MAJOR) exchange = exchange->previous;
    return exchange && exchange->look ? exchange : NULL;
}

PyObject *shmt_know_torch(PyObject *module, PyObject *arguments) {
    PyObject *type, *codes;
    if (!PyArg_ParseTuple(arguments, "OO!", &type, &PyDict_Type, &codes)) return NULL;
    shmt_module_state *state = PyModule_GetState(module);
    const shmt_dlpack_exchange *exchange = exchange_of(type);
    if (!exchange || state->exchange) return PyBool_FromLong(exchange != NULL);
    state->is_neg = PyObject_GetAttrString(type, "is_neg");
    state->dtype = PyUnicode_InternFromString("dtype");
    if (!state->is_neg || !state->dtype) return NULL;
    state->tensor_type = Py_NewRef(type);
    state->dtype_codes = Py_NewRef(codes);
    state->exchange = exchange;
    Py_RETURN_TRUE;
}

static bool is_contiguous(const shmt_dlpack_tensor *tensor) {
    int64_t expected = 1;
    for (int32_t i = tensor->rank - 1; i >= 0; i--) {
        if (tensor->dims[i] != 1 && tensor->strides[i] != expected) return false;
        expected *= tensor->dims[i];
    }
    return true;
}

/* 0 also where they are 2^63 or more. */
static uint64_t nbytes_of(shmt_dlpack_dtype dtype, const uint64_t *dims, uint32_t rank) {
    uint64_t nbytes = dtype.bits / 8;
    for (uint32_t i = 0; i < rank; i++)
        if (__builtin_mul_overflow(nbytes, dims[i], &nbytes) || nbytes > INT64_MAX) return 0;
    return nbytes;
}

/* By torch's own name for it: DLPack calls a uint4 what it calls a uint8. False for complex ones, which may be conjugated
 * without saying so. */
static bool find_dtype(shmt_module_state *state, PyObject *tensor, shmt_dlpack_dtype seen, uint8_t *code) {
    PyObject *dtype = PyObject_GetAttr(tensor, state->dtype);
    PyObject *found = dtype ? PyDict_GetItemWithError(state->dtype_codes, dtype) : NULL; /* borrowed */
    size_t number = found ? PyLong_AsSize_t(found) : DTYPES;
    Py_XDECREF(dtype);
    *code = (uint8_t)number;
    return number < DTYPES && !IS_COMPLEX(seen) && memcmp(&dtypes[number], &seen, sizeof seen) == 0;
}

static bool is_negated(shmt_module_state *state, PyObject *tensor) {
    PyObject *answer = PyObject_CallFunctionObjArgs(state->is_neg, tensor, NULL);
    Py_XDECREF(answer);
    return answer != Py_False;
}

static bool look(shmt_module_state *state, PyObject *tensor, shmt_plain_tensor *plain) {
    shmt_dlpack_tensor seen;
    if ((PyObject *)Py_TYPE(tensor) != state->tensor_type || state->exchange->look(tensor, &seen) != 0) return false;
    if (seen.device_type != SHMT_DLPACK_CPU || seen.rank > (int32_t)SHMT_RANK_MAX || !is_contiguous(&seen)) return false;
    plain->rank = (uint32_t)seen.rank;
    memcpy(plain->dims, seen.dims, plain->rank * sizeof *plain->dims); /* other threads run while torch is asked below */
    plain->nbytes = nbytes_of(seen.dtype, plain->dims, plain->rank);
    plain->address = (uint8_t *)seen.address + seen.offset;
    return plain->nbytes && find_dtype(state, tensor, seen.dtype, &plain->dtype) && !is_negated(state, tensor);
}

bool shmt_plain_look(shmt_module_state *state, PyObject *tensor, shmt_plain_tensor *plain) {
    if (!state->exchange) return false;
    bool is_plain = look(state, tensor, plain);
    if (!is_plain) PyErr_Clear();
    return is_plain;
}

uint64_t shmt_plain_nbytes(const shmt_module_state *state, const shmt_handle *handle) {
    if (!state->exchange || handle->kind != SHMT_KIND_TORCH || handle->dtype >= DTYPES) return 0;
    return nbytes_of(dtypes[handle->dtype], handle->dims, handle->rank);
}

shmt_plain_shell *shmt_plain_shell_new(const shmt_handle *handle) {
    uint32_t rank = handle->rank;
    shmt_plain_shell *shell = malloc(sizeof *shell + 2 * rank * sizeof *shell->sizes);
    if (!shell) return NULL;
    int64_t *dims = shell->sizes, *strides = dims + rank, stride = 1;
    for (uint32_t i = rank; i-- > 0; stride *= dims[i]) {
        dims[i] = (int64_t)handle->dims[i];
        strides[i] = stride;
    }
    shell->lent = (shmt_dlpack_lent){
        .version = {SHMT_DLPACK_MAJOR, 0},
        .tensor = {.device_type = SHMT_DLPACK_CPU, .rank = (int32_t)rank, .dtype = dtypes[handle->dtype], .dims = dims, .strides = strides},
    };
    return shell;
}

void shmt_plain_shell_free(shmt_plain_shell *shell) { free(shell); }

static void give_back(shmt_dlpack_lent *lent) {
    shmt_plain_shell *shell = (shmt_plain_shell *)lent, ended = *shell;
    free(shell); /* first: as the last call it would be a jump, and tests that count heap blocks would not see whose it is */
    shmt_lease_end(ended.attachment, ended.entry, ended.generation);
}

PyObject *shmt_plain_make(shmt_module_state *state, shmt_plain_shell *shell, shmt_attachment *attachment, const shmt_lease *lease) {
    void *made = NULL;
    shell->attachment = attachment;
    shell->entry = lease->entry;
    shell->generation = lease->generation;
    shell->lent.tensor.address = lease->address;
    shell->lent.give_back = give_back;
    return state->exchange->take(&shell->lent, &made) == 0 ? made : NULL;
}
