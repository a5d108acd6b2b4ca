"""What a tensor of the soak holds: all of it follows from one number, so whoever has the number can verify it.

The number gives the dtype, the shape, torch or numpy, and each byte. A 64-bit key made of it is laid over a pattern
of random words, so that two numbers differ in every word, and a word at a wrong place is a wrong word. A check is one
pass of exclusive or and one comparison.
"""

import random
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

Payload: TypeAlias = "torch.Tensor | npt.NDArray[np.generic]"
Bytes: TypeAlias = npt.NDArray[np.uint8]

LARGEST_NBYTES = 1 << 20
DTYPES = (
    torch.bool, torch.uint8, torch.int8, torch.uint16, torch.int16, torch.uint32, torch.int32, torch.int64,
    torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128,
    torch.float8_e4m3fn, torch.float8_e5m2,
)  # fmt: skip
NUMPY_DTYPES = tuple(np.dtype(name) for name in ("bool", "u1", "i2", "u4", "f4", "i8", "f8", "c8"))

_PATTERN = np.random.default_rng(0x5EED).integers(1 << 64, size=LARGEST_NBYTES // 8 + 1, dtype=np.uint64)
_scratch = np.empty_like(_PATTERN)


class Contents(NamedTuple):
    """What the tensor with a number looks like."""

    dtype: torch.dtype | np.dtype[np.generic]
    shape: tuple[int, ...]
    key: np.uint64

    @property
    def nbytes(self) -> int:
        return self.dtype.itemsize * int(np.prod(self.shape, dtype=np.int64))


def contents_of(number: int) -> Contents:
    """Sizes are spread evenly over their logarithms, from 0 to ``LARGEST_NBYTES``; ranks are 0 to 4."""
    rng = random.Random(number)
    dtype = rng.choice(NUMPY_DTYPES) if rng.random() < 0.2 else rng.choice(DTYPES)
    nbytes = int(2 ** rng.uniform(0, 20)) - 1
    left = nbytes // dtype.itemsize
    shape = []
    for _ in range(rng.randrange(4)):
        dim = rng.randint(1, 5)
        shape.append(dim)
        left //= dim
    if shape or left != 1:
        shape.insert(rng.randint(0, len(shape)), left)
    return Contents(dtype, tuple(shape), np.uint64(rng.getrandbits(64)))


def fill(raw: Bytes, contents: Contents) -> None:
    """Writes the bytes of ``contents`` into ``raw``, which has room for them."""
    raw[:] = _expected(contents, 0, len(raw))


def make(contents: Contents) -> Payload:
    """A tensor in ordinary memory."""
    payload: Payload
    if isinstance(contents.dtype, np.dtype):
        payload = np.empty(contents.shape, contents.dtype)
    else:
        payload = torch.empty(contents.shape, dtype=contents.dtype)
    fill(raw_of(payload), contents)
    return payload


def raw_of(payload: Payload) -> Bytes:
    """The bytes of a contiguous tensor or array, in place."""
    if payload.nbytes == 0:
        return np.empty(0, np.uint8)
    if isinstance(payload, np.ndarray):
        return payload.reshape(-1).view(np.uint8)
    return payload.reshape(-1).view(torch.uint8).numpy()


def fault_of(payload: object, number: int, start: int) -> str:
    """What of ``payload`` is not as ``number`` says, from row ``start`` of its first dimension on; "" if nothing."""
    contents = contents_of(number)
    shape = (contents.shape[0] - start, *contents.shape[1:]) if start else contents.shape
    expected = torch.Tensor if isinstance(contents.dtype, torch.dtype) else np.ndarray
    if not isinstance(payload, expected):
        return f"expected a {expected.__name__}, got a {type(payload).__name__}"
    if (payload.dtype, tuple(payload.shape)) != (contents.dtype, shape):
        return f"expected {contents.dtype} {shape}, got {payload.dtype} {tuple(payload.shape)}"
    raw = raw_of(payload)
    if len(raw) == 0:
        return ""
    first = contents.nbytes - len(raw)
    if first % 8 == 0 and len(raw) >= 8:
        words, whole = len(raw) // 8, len(raw) // 8 * 8
        keys = np.bitwise_xor(raw[:whole].view(np.uint64), _PATTERN[first // 8 :][:words], out=_scratch[:words])
        if (keys == contents.key).all() and (raw[whole:] == _expected(contents, first + whole, len(raw) - whole)).all():
            return ""
    wrong = np.flatnonzero(raw != _expected(contents, first, len(raw)))
    return f"{len(wrong)} of {len(raw)} bytes are wrong, the first at {wrong[0]}" if len(wrong) else ""


def _expected(contents: Contents, first: int, nbytes: int) -> Bytes:
    """Bytes ``first`` to ``first + nbytes``; valid until the next call."""
    begin = first // 8
    words = (first + nbytes + 7) // 8 - begin
    np.bitwise_xor(_PATTERN[begin:][:words], contents.key, out=_scratch[:words])
    return _scratch.view(np.uint8)[first - begin * 8 :][:nbytes]
