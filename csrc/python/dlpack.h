/* dlpack.h - what is used here of DLPack 1 (https://dmlc.github.io/dlpack/latest/c_api.html): the table of functions
 * that a tensor type offers to C in `__dlpack_c_exchange_api__`. The layout is DLPack's, the names are this project's. */
#ifndef SHMT_DLPACK_H
#define SHMT_DLPACK_H

#include <stddef.h>
#include <stdint.h>

#define SHMT_DLPACK_ATTRIBUTE "__dlpack_c_exchange_api__"
#define SHMT_DLPACK_CAPSULE "dlpack_exchange_api"
#define SHMT_DLPACK_MAJOR 1u
#define SHMT_DLPACK_CPU 1

typedef struct shmt_dlpack_version {
    uint32_t major, minor;
} shmt_dlpack_version;

typedef struct shmt_dlpack_dtype {
    uint8_t code; /* kind of number */
    uint8_t bits;
    uint16_t lanes;
} shmt_dlpack_dtype;

typedef struct shmt_dlpack_tensor {
    void *address;
    int32_t device_type, device_number;
    int32_t rank;
    shmt_dlpack_dtype dtype;
    int64_t *dims;
    int64_t *strides; /* in elements */
    uint64_t offset;  /* of the first element, in bytes */
} shmt_dlpack_tensor;

/* A tensor whose memory belongs to whoever made this. */
typedef struct shmt_dlpack_lent {
    shmt_dlpack_version version;
    void *context;
    void (*give_back)(struct shmt_dlpack_lent *self); /* any thread, with or without the interpreter's lock */
    uint64_t marks;                                   /* 0: may be written, was not copied */
    shmt_dlpack_tensor tensor;
} shmt_dlpack_lent;

typedef struct shmt_dlpack_exchange {
    shmt_dlpack_version version;
    struct shmt_dlpack_exchange *previous;
    void *allocate;
    void *lend;
    int (*take)(shmt_dlpack_lent *lent, void **object); /* a new tensor over it; the memory is the tensor's from here on */
    int (*look)(void *object, shmt_dlpack_tensor *tensor); /* valid while the object lives; NULL: the type has none */
    void *stream;
} shmt_dlpack_exchange;

_Static_assert(sizeof(shmt_dlpack_tensor) == 48 && offsetof(shmt_dlpack_tensor, dims) == 24, "DLTensor");
_Static_assert(offsetof(shmt_dlpack_lent, tensor) == 32, "DLManagedTensorVersioned");
_Static_assert(offsetof(shmt_dlpack_exchange, take) == 32 && offsetof(shmt_dlpack_exchange, look) == 40, "DLPackExchangeAPI");

#endif
