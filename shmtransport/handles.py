"""What crosses the socket in place of a tensor: a `Handle`, or the bytes `Inline`.

A handle on the wire (little-endian, under 128 bytes up to rank 8):

    offset  size  field
    0       1     0xB5
    1       1     version of this format
    2       1     kind: 0 torch.Tensor, 1 numpy.ndarray, 2 torch.Tensor on a CUDA device
    3       1     dtype, an index into `dtypes.TABLE`
    4       1     rank
    5       1     sender: its index in the ring
    6       2     ticket
    8       16    ring id
    24      4     entry of the block table
    28      4     generation
    32      8     offset in the block, bytes; of kind 2: in the device's, which the block names
    40      4     sequence of the ticket
    44      8     each dimension
    44+8r   4     CRC-32 of everything before

The checksum catches damage, not malice: a forger can compute it. What a forged handle can reach is bounded
by the core, which reads where a block lies from its entry and checks every bound (docs/protocol.md).
Inline bytes begin with 0xB6, version, kind, dtype, rank and the dimensions; the payload follows.
"""

import math
import struct
import zlib
from functools import cache
from typing import Final, Self

import msgspec

from shmtransport import dtypes
from shmtransport.errors import HandleError, LayoutMismatchError
from shmtransport.layout import InlineReason

HANDLE_MAGIC: Final = 0xB5
INLINE_MAGIC: Final = 0xB6
VERSION: Final = 1
KIND_TORCH: Final = 0
KIND_NUMPY: Final = 1
KIND_DEVICE: Final = 2
LARGEST_RANK: Final = 64  # torch's own limit

RING_ID: Final = slice(8, 24)
"""Where a handle's bytes name its ring."""

_FIXED_NBYTES: Final = 44
_CRC: Final = struct.Struct("<I")
_INLINE_FIXED: Final = struct.Struct("<BBBBB")


@cache
def _handle_struct(rank: int) -> struct.Struct:
    return struct.Struct(f"<BBBBBBH16sIIQI{rank}Q")


@cache
def _dims_struct(rank: int) -> struct.Struct:
    return struct.Struct(f"<{rank}Q")


def nbytes_of(dtype: int, shape: tuple[int, ...]) -> int:
    """Bytes of a contiguous tensor."""
    return math.prod(shape) * dtypes.TABLE[dtype].itemsize


def _check_head(head: bytes, magic: int, what: str) -> None:
    if head[0] != magic:
        raise HandleError(f"expected {what} (first byte {magic:#x}), got first byte {head[0]:#x}")
    if head[1] != VERSION:
        raise LayoutMismatchError(
            f"expected {what} of version {VERSION}, got {head[1]}: install the same shmtransport at both ends"
        )


def _check_tensor(kind: int, dtype: int, what: str, kinds: tuple[int, ...] = (KIND_TORCH, KIND_NUMPY)) -> None:
    if kind not in kinds or dtype >= len(dtypes.TABLE):
        raise HandleError(f"{what} names kind {kind}, dtype {dtype}: unknown here")
    known = dtypes.TABLE[dtype]
    if (known.numpy if kind == KIND_NUMPY else known.torch) is None:
        raise HandleError(
            f"{what} has dtype {known.name}, which this version of {'numpy' if kind == KIND_NUMPY else 'torch'} lacks"
        )


class Handle(msgspec.Struct, frozen=True):
    """Names a tensor in a block: where, which generation, and the ticket that covers it on its way.

    Made by ``share``, sent as ``bytes(handle)``, opened by ``open``. Immutable; any thread.
    """

    ring_id: bytes
    entry: int
    generation: int
    offset: int
    kind: int
    dtype: int
    shape: tuple[int, ...]
    sender: int
    ticket: int
    sequence: int

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor."""
        return nbytes_of(self.dtype, self.shape)

    def __bytes__(self) -> bytes:
        rank = len(self.shape)
        body = _handle_struct(rank).pack(
            HANDLE_MAGIC, VERSION, self.kind, self.dtype, rank, self.sender, self.ticket, self.ring_id,
            self.entry, self.generation, self.offset, self.sequence, *self.shape,
        )  # fmt: skip
        return body + _CRC.pack(zlib.crc32(body))

    @classmethod
    def from_bytes(cls, wire: bytes | bytearray | memoryview) -> Self:
        """Checked for damage. Raises `HandleError`, or `LayoutMismatchError` for another version."""
        wire = bytes(wire)
        if len(wire) < _FIXED_NBYTES + 4:
            raise HandleError(f"expected a handle of at least {_FIXED_NBYTES + 4} bytes, got {len(wire)}")
        _check_head(wire, HANDLE_MAGIC, "a handle")
        rank = wire[4]
        if rank > LARGEST_RANK or len(wire) != _FIXED_NBYTES + 8 * rank + 4:
            raise HandleError(
                f"expected {_FIXED_NBYTES + 8 * rank + 4} bytes for a handle of rank {rank}, got {len(wire)}"
            )
        if zlib.crc32(wire[:-4]) != _CRC.unpack_from(wire, len(wire) - 4)[0]:
            raise HandleError("the handle's checksum does not match: it was damaged on its way")
        (_, _, kind, dtype, _, sender, ticket, ring_id, entry, generation, offset, sequence, *shape) = _handle_struct(
            rank
        ).unpack_from(wire)
        _check_tensor(kind, dtype, "the handle", (KIND_TORCH, KIND_NUMPY, KIND_DEVICE))
        return cls(ring_id, entry, generation, offset, kind, dtype, tuple(shape), sender, ticket, sequence)


class Inline(msgspec.Struct, frozen=True):
    """The fallback: a tensor's own bytes. Always correct, only slower.

    ``payload`` may be the tensor's memory itself: serialise it before the tensor changes. Immutable; any thread.
    """

    kind: int
    dtype: int
    shape: tuple[int, ...]
    payload: memoryview
    reason: InlineReason = InlineReason.SMALL
    """Why it is not a handle; stays at the sender."""

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor."""
        return self.payload.nbytes

    def head(self) -> bytes:
        """Everything but the payload."""
        rank = len(self.shape)
        return _INLINE_FIXED.pack(INLINE_MAGIC, VERSION, self.kind, self.dtype, rank) + _dims_struct(rank).pack(
            *self.shape
        )

    def __bytes__(self) -> bytes:
        return self.head() + self.payload

    @classmethod
    def from_parts(cls, head: bytes, payload: memoryview) -> Self:
        """From a head and a payload that travelled apart."""
        inline, used = cls._parse(head)
        if used != len(head):
            raise HandleError(f"expected an inline head of {used} bytes, got {len(head)}")
        return inline._with(payload)

    @classmethod
    def from_bytes(cls, wire: bytes | bytearray | memoryview) -> Self:
        """Raises `HandleError` if the sizes do not add up."""
        view = memoryview(wire)
        inline, used = cls._parse(bytes(view[: _INLINE_FIXED.size + 8 * LARGEST_RANK]))
        return inline._with(view[used:])

    @classmethod
    def _parse(cls, head: bytes) -> tuple[Self, int]:
        if len(head) < _INLINE_FIXED.size:
            raise HandleError(f"expected an inline head of at least {_INLINE_FIXED.size} bytes, got {len(head)}")
        _check_head(head, INLINE_MAGIC, "inline bytes")
        _, _, kind, dtype, rank = _INLINE_FIXED.unpack_from(head)
        used = _INLINE_FIXED.size + 8 * rank
        if rank > LARGEST_RANK or len(head) < used:
            raise HandleError(f"inline bytes of rank {rank} end after {len(head)} bytes")
        _check_tensor(kind, dtype, "inline bytes")
        return cls(kind, dtype, _dims_struct(rank).unpack_from(head, _INLINE_FIXED.size), memoryview(b"")), used

    def _with(self, payload: memoryview) -> Self:
        expected = nbytes_of(self.dtype, self.shape)
        if payload.nbytes != expected:
            raise HandleError(f"expected {expected} inline bytes for shape {self.shape}, got {payload.nbytes}")
        if (
            nbytes_of(self.dtype, tuple(dim or 1 for dim in self.shape)) >= 1 << 63
        ):  # no library makes it, even if empty
            raise HandleError(f"inline bytes of shape {self.shape}: its dimensions are too large")
        return msgspec.structs.replace(self, payload=payload)
