/* torch_tensors.h - torch's tensors without Python in between: looked at, and made, through DLPack's table.
 *
 * Only the plain ones: of type torch.Tensor itself, strided, on the CPU, contiguous, of a dtype that DLPack knows and
 * whose bytes are its values. All others are for shmtransport/tensors.py, which takes every tensor. */
#ifndef SHMT_TORCH_TENSORS_H
#define SHMT_TORCH_TENSORS_H

#include "handle.h"
#include "python.h"

typedef struct shmt_plain_tensor {
    void *address;
    uint64_t nbytes; /* at least 1 */
    uint8_t dtype;   /* as in a handle */
    uint32_t rank;
    uint64_t dims[SHMT_RANK_MAX];
} shmt_plain_tensor;

/* For the module's table: know_torch(torch.Tensor, {dtype: code}) says whether this torch has DLPack's table. Without it,
 * or before it was called, no tensor is plain and none is made. */
PyObject *shmt_know_torch(PyObject *module, PyObject *arguments);

/* False, without an exception: not a plain one. */
bool shmt_plain_look(shmt_module_state *state, PyObject *tensor, shmt_plain_tensor *plain);

/* Bytes of the tensor that a handle describes; 0 if it has none, or is none that shmt_plain_make() can make. */
uint64_t shmt_plain_nbytes(const shmt_module_state *state, const shmt_handle *handle);

/* A tensor to be: made before the lease is taken, so that nothing can fail between the lease and the tensor but torch. */
typedef struct shmt_plain_shell shmt_plain_shell;
shmt_plain_shell *shmt_plain_shell_new(const shmt_handle *handle); /* NULL: no memory */
void shmt_plain_shell_free(shmt_plain_shell *shell);

/* The tensor over the lease's bytes; the lease ends with its storage, in any thread. Takes shell and lease. */
PyObject *shmt_plain_make(shmt_module_state *state, shmt_plain_shell *shell, shmt_attachment *attachment, const shmt_lease *lease);

#endif
