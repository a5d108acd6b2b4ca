"""The fixed table of element types: a handle carries a small integer, never a name to look up.

Codes are part of the wire format: they are never reused, new ones go at the end.
"""

from typing import Final, NamedTuple

import numpy as np
import torch


class Dtype(NamedTuple):
    """One element type. ``torch`` or ``numpy`` is None where that library (or version) lacks it."""

    code: int
    name: str
    itemsize: int
    is_complex: bool
    torch: torch.dtype | None
    numpy: np.dtype[np.generic] | None


_NAMES: Final = (
    "bool uint8 uint16 uint32 uint64 int8 int16 int32 int64 float16 bfloat16 float32 float64 "
    "complex32 complex64 complex128 "
    "float8_e4m3fn float8_e4m3fnuz float8_e5m2 float8_e5m2fnuz float8_e8m0fnu float4_e2m1fn_x2 "
    "bits8 bits16 bits1x8 bits2x4 bits4x2 "
    "uint1 uint2 uint3 uint4 uint5 uint6 uint7 int1 int2 int3 int4 int5 int6 int7"
).split()
_NUMPY: Final = frozenset(
    "bool uint8 uint16 uint32 uint64 int8 int16 int32 int64 float16 float32 float64 complex64 complex128".split()
)


def _dtype(code: int, name: str) -> Dtype:
    in_torch: torch.dtype | None = getattr(torch, name, None)
    in_numpy = np.dtype(name) if name in _NUMPY else None
    itemsize = in_torch.itemsize if in_torch is not None else in_numpy.itemsize if in_numpy is not None else 0
    return Dtype(code, name, itemsize, name.startswith("complex"), in_torch, in_numpy)


TABLE: Final = tuple(_dtype(code, name) for code, name in enumerate(_NAMES))
OF_TORCH: Final = {dtype.torch: dtype for dtype in TABLE if dtype.torch is not None}
OF_NUMPY: Final = {dtype.numpy: dtype for dtype in TABLE if dtype.numpy is not None}
