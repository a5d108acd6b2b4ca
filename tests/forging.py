"""Forged handles: what whoever can send to a socket can make of one, checksum included."""

import struct
import zlib
from typing import Final

FIXED_NBYTES: Final = 44
_FIELDS: Final = struct.Struct("<BBBBBBH16sIIQI")
_NAMES: Final = (
    "magic", "version", "kind", "dtype", "rank", "sender", "ticket", "ring", "entry", "generation", "offset",
    "sequence",
)  # fmt: skip


def sealed(body: bytes) -> bytes:
    """With the checksum that a forger can compute."""
    return body + struct.pack("<I", zlib.crc32(body))


def forge(wire: bytes, **fields: int) -> bytes:
    """``wire`` with other fields and a right checksum."""
    values = dict(zip(_NAMES, _FIELDS.unpack_from(wire), strict=True)) | fields
    return sealed(_FIELDS.pack(*values.values()) + wire[_FIELDS.size : -4])


def with_dims(wire: bytes, dims: tuple[int, ...], rank: int | None = None) -> bytes:
    """``wire`` with another shape, and at will a rank that contradicts it."""
    head = bytearray(wire[:FIXED_NBYTES])
    head[4] = len(dims) if rank is None else rank
    return sealed(bytes(head) + struct.pack(f"<{len(dims)}Q", *dims))
