"""Tensors and arrays as bytes: describing what is to be sent, building what was received.

Everything above works on `Description` and never asks whether something is torch or numpy.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from shmtransport import _core, dtypes
from shmtransport.errors import ConfigError, InternalError, UnsupportedTypeError
from shmtransport.handles import KIND_NUMPY, KIND_TORCH, Inline, nbytes_of
from shmtransport.layout import InlineReason

# The core then makes handles of plain tensors, and opens them, in one call each (csrc/python/wire_face.h).
_core.know_torch(torch.Tensor, {known: dtype.code for known, dtype in dtypes.OF_TORCH.items()})

Array: TypeAlias = npt.NDArray[np.generic]
Tensor: TypeAlias = torch.Tensor | Array


class Description(NamedTuple):
    """What a tensor is: enough to send it and to rebuild it."""

    kind: int
    dtype: int
    shape: tuple[int, ...]
    nbytes: int
    address: int | None
    """Of its first byte, if the bytes lie contiguous in this host's memory; else None."""


def describe(value: object) -> Description:
    """Raises `UnsupportedTypeError` for what has no bytes to send, with the remedy."""
    if isinstance(value, torch.Tensor):
        return _describe_torch(value)
    if isinstance(value, np.ndarray):
        return _describe_numpy(value)
    raise UnsupportedTypeError(f"expected a torch.Tensor or numpy.ndarray, got {type(value).__qualname__}")


def _describe_torch(value: torch.Tensor) -> Description:
    # Each question asked of a tensor costs microseconds behind a large copy, when nothing is in cache any more.
    dtype = dtypes.OF_TORCH.get(value.dtype)
    if dtype is None:
        raise UnsupportedTypeError(f"expected a plain dtype, got {value.dtype}: dequantize() it first")
    if value.layout is not torch.strided:
        raise UnsupportedTypeError(f"expected a strided tensor, got layout {value.layout}: to_dense() it first")
    plain = value.is_cpu and value.is_contiguous() and not value.is_neg() and not (dtype.is_complex and value.is_conj())
    if not plain and value.is_meta:
        raise UnsupportedTypeError("expected a tensor with data, got one on the meta device")
    try:
        shape = tuple(value.shape)
    except RuntimeError as error:
        raise UnsupportedTypeError("expected a strided tensor, got a nested one: send its parts as a list") from error
    return Description(KIND_TORCH, dtype.code, shape, nbytes_of(dtype.code, shape), value.data_ptr() if plain else None)


def _describe_numpy(value: Array) -> Description:
    if isinstance(value, np.ma.MaskedArray):
        raise UnsupportedTypeError("expected a plain array, got a MaskedArray: send .data and .mask")
    if value.dtype.hasobject:
        raise UnsupportedTypeError(f"expected numbers, got an array of {value.dtype}: objects cannot be shared")
    if value.dtype.byteorder == ">":
        raise UnsupportedTypeError(
            f"expected native byte order, got {value.dtype.str}: astype({value.dtype.name!r}) it first"
        )
    dtype = dtypes.OF_NUMPY.get(value.dtype)
    if dtype is None:
        raise UnsupportedTypeError(f"expected a number type, got {value.dtype}: view() it as bytes or integers")
    address = value.__array_interface__["data"][0] if value.flags.c_contiguous else None
    return Description(KIND_NUMPY, dtype.code, value.shape, value.nbytes, address)


# A dtype of equal size that every copy kernel of torch knows.
_PLAIN = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def fill(lease: _core.Lease, value: Tensor, description: Description, footprint_nbytes: int) -> None:
    """The one copy: the bytes of ``value``, made contiguous, into the lease's block.

    The GIL is released from 256 KiB on. ``footprint_nbytes`` is how much memory the ring uses in rotation: it
    decides whether the copy should bypass the caches.
    """
    if description.address is not None:
        _core.copy(lease.address, description.address, description.nbytes, footprint_nbytes)
        return
    if isinstance(value, np.ndarray):
        exporter: Any = lease
        target = np.frombuffer(exporter, dtype=value.dtype, count=value.size).reshape(value.shape)
        np.copyto(target, value)
        return
    source = value.detach()
    destination = torch.frombuffer(lease, dtype=source.dtype, count=source.numel()).view(source.shape)
    plain = None if source.is_conj() or source.is_neg() else _PLAIN.get(source.itemsize)
    if plain is not None:
        source, destination = source.view(plain), destination.view(plain)
    destination.copy_(source)


def build(lease: _core.Lease, kind: int, dtype: int, shape: tuple[int, ...]) -> Tensor:
    """The tensor over a lease's bytes: zero copies; the lease ends with its storage."""
    known = dtypes.TABLE[dtype]
    if kind == KIND_NUMPY:
        exporter: Any = lease
        array: Array = np.frombuffer(exporter, dtype=known.numpy).reshape(shape)
        if not lease.writable:
            array.flags.writeable = False
        return array
    if known.torch is None:
        raise InternalError(f"dtype {known.name} passed the handle's check without a torch type")
    flat: torch.Tensor = torch.frombuffer(lease, dtype=known.torch)
    return flat if len(shape) == 1 else flat.view(shape)


def empty(kind: int, dtype: int, shape: tuple[int, ...]) -> Tensor:
    """Ordinary memory."""
    known = dtypes.TABLE[dtype]
    if kind == KIND_NUMPY:
        return np.empty(shape, known.numpy)
    flat = torch.empty(nbytes_of(dtype, shape), dtype=torch.uint8)  # torch warns of making a complex32 directly
    return flat.view(known.torch or torch.uint8).view(shape)


def to_inline(value: Tensor, description: Description, reason: InlineReason = InlineReason.SMALL) -> Inline:
    """Its bytes; the tensor's own memory if that is contiguous, a copy otherwise."""
    payload = memoryview(b"")
    if description.nbytes:
        if isinstance(value, np.ndarray):
            payload = np.ascontiguousarray(value).reshape(-1).view(np.uint8).data
        else:
            source = value.detach()
            plain = None if source.is_conj() or source.is_neg() else _PLAIN.get(source.itemsize)
            source = source if plain is None else source.view(plain)
            made = source.cpu().resolve_conj().resolve_neg().contiguous()
            payload = made.view(-1).view(torch.uint8).numpy().data
    return Inline(description.kind, description.dtype, description.shape, payload, reason)


def from_inline(inline: Inline) -> Tensor:
    """A tensor in memory of its own, writable."""
    made = empty(inline.kind, inline.dtype, inline.shape)
    if inline.payload.nbytes:
        flat = (
            made.reshape(-1).view(np.uint8) if isinstance(made, np.ndarray) else made.view(-1).view(torch.uint8).numpy()
        )
        flat[:] = np.frombuffer(inline.payload, np.uint8)
    return made


def dims_of(shape: Iterable[int] | int) -> tuple[int, ...]:
    """What a caller names as a shape. Raises `ConfigError` for a negative dimension."""
    dims = (shape,) if isinstance(shape, int) else tuple(shape)
    if any(dim < 0 for dim in dims):
        raise ConfigError("shape", dims, "dimensions of 0 or more")
    return dims


def dtype_of(dtype: torch.dtype | npt.DTypeLike) -> tuple[int, dtypes.Dtype]:
    """Kind and table entry of what a caller names as a dtype."""
    if isinstance(dtype, torch.dtype):
        found = dtypes.OF_TORCH.get(dtype)
        kind = KIND_TORCH
    else:
        found = dtypes.OF_NUMPY.get(np.dtype(dtype))
        kind = KIND_NUMPY
    if found is None:
        raise UnsupportedTypeError(f"expected a plain number type, got {dtype}")
    return kind, found
