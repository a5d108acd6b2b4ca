"""Nested objects as one msgpack body, tensors as extensions in it. The owner of msgspec's encoder.

    extension 1  a handle
    extension 2  a tensor inline, in the body
    extension 3  a tensor inline, in a frame of its own: u32 index of the frame, then its head
    extension 4  a numpy scalar, inline

Dicts, lists, tuples, sets, dataclasses, msgspec.Structs and whatever else msgspec knows go as msgspec encodes
them: without a type to decode into, a tuple comes back as a list and a dataclass as a dict. Nothing is ever
unpickled.
"""

import dataclasses
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any, Final, TypeAlias

import msgspec
import numpy as np
import torch

from shmtransport import tensors
from shmtransport.errors import HandleError, InternalError, ShmTransportError, UnsupportedTypeError
from shmtransport.handles import Handle, Inline
from shmtransport.tensors import Tensor

_HANDLE: Final = 1
_INLINE: Final = 2
_FRAME: Final = 3
_SCALAR: Final = 4

_INDEX: Final = struct.Struct("<I")

# Inline payloads from here on travel in a frame of their own, which the socket need not copy into the body.
_OWN_FRAME_NBYTES: Final = 65536

# What msgspec raises for bytes that are not msgpack: it lets the last two through.
UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

_TENSORS: Final = (torch.Tensor, np.ndarray)
_Ext: Final = msgspec.msgpack.Ext

Place: TypeAlias = Callable[[Tensor], Handle | bytes | Inline]
"""How a tensor travels; a handle may be its bytes already."""

Open: TypeAlias = Callable[[memoryview], Tensor]
"""The tensor behind a handle's bytes, whatever they are."""

Encoded: TypeAlias = tuple[bytes, list[memoryview]]
"""A message without its envelope: the body, then the frames it refers to."""


class Encoder:
    """Makes messages, one after the other. Kept, because an encoder of msgspec's costs more to make than to use.

    For one thread at a time.
    """

    def __init__(self) -> None:
        self._message = _Outgoing()
        self._msgpack = msgspec.msgpack.Encoder(enc_hook=self._message.extend)

    def encode(self, value: object, place: Place) -> Encoded:
        """``value`` as bytes; ``place`` decides for each tensor how it travels.

        Raises `UnsupportedTypeError` that names the type and its place (``$.images[3]``).
        """
        message = self._message
        message.place = place
        try:
            return self._msgpack.encode(value), message.frames
        except UnsupportedTypeError as error:
            raise UnsupportedTypeError(f"{error} - at {_place_of(value, message.culprit)}") from None
        except RecursionError:
            raise UnsupportedTypeError("cannot send an object that contains itself, or is nested too deeply") from None
        except (OverflowError, UnicodeEncodeError, msgspec.MsgspecError) as error:
            raise UnsupportedTypeError(f"cannot send a value: {error} - within $") from error
        finally:
            message.clear()


class _Outgoing:
    """What belongs to the message that is being encoded."""

    __slots__ = ("culprit", "frames", "place")

    place: Place
    frames: list[memoryview]
    culprit: object

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.place = _nowhere
        self.frames = []
        self.culprit = None

    def extend(self, found: Any) -> msgspec.msgpack.Ext:
        self.culprit = found
        if isinstance(found, _TENSORS):
            sent = self.place(found)
            return _Ext(_HANDLE, sent) if type(sent) is bytes else _extend_tensor(sent, self.frames)
        if isinstance(found, np.generic):
            array = np.asarray(found)
            return _Ext(_SCALAR, bytes(tensors.to_inline(array, tensors.describe(array))))
        raise UnsupportedTypeError(f"cannot send a {type(found).__module__}.{type(found).__qualname__}")


def _nowhere(tensor: Tensor) -> Inline:
    raise InternalError(f"a {type(tensor).__qualname__} is placed outside of a message")


def _extend_tensor(sent: Handle | bytes | Inline, frames: list[memoryview]) -> msgspec.msgpack.Ext:
    if not isinstance(sent, Inline):
        return _Ext(_HANDLE, bytes(sent))
    if sent.payload.nbytes < _OWN_FRAME_NBYTES:
        return _Ext(_INLINE, bytes(sent))
    frames.append(sent.payload)
    return _Ext(_FRAME, _INDEX.pack(len(frames) - 1) + sent.head())


class Decoder:
    """Reads messages, one after the other, and keeps msgspec's decoder of the last type. For one thread at a time."""

    def __init__(self) -> None:
        self._message = _Incoming()
        self._type: Any = Any
        self._msgpack = msgspec.msgpack.Decoder(Any, ext_hook=self._message.restore)

    def decode(self, body: bytes | memoryview, frames: list[memoryview], open_handle: Open, type: Any = Any) -> Any:
        """The object, its tensors opened, as ``type`` (anything msgspec can decode into; tensors are `torch.Tensor`
        or `numpy.ndarray` fields).

        Raises what ``open_handle`` raises, `HandleError` for a message that contradicts itself. Leases opened
        before a failure end with the tensors that are dropped by it. Each frame is one tensor's: a second reference to
        it is refused, so that what is received cannot take many times the memory of what was sent.
        """
        if type is not self._type:
            self._msgpack = msgspec.msgpack.Decoder(type, ext_hook=self._message.restore)
            self._type = type
        message = self._message
        message.open, message.frames = open_handle, len(frames)
        message.unread = dict(enumerate(frames)) if frames else {}
        try:
            return self._msgpack.decode(body)
        except ShmTransportError:
            raise
        except msgspec.ValidationError:
            raise
        except UNREADABLE as error:
            raise HandleError(f"a message that is not msgpack: {error}") from error
        finally:
            message.clear()


class _Incoming:
    """What belongs to the message that is being decoded."""

    __slots__ = ("frames", "open", "unread")

    open: Open
    frames: int
    unread: dict[int, memoryview]

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.open = _unopened
        self.frames = 0
        self.unread = {}

    def restore(self, code: int, payload: memoryview) -> Any:
        if code == _HANDLE:
            return self.open(payload)
        if code == _INLINE:
            return tensors.from_inline(Inline.from_bytes(payload))
        if code == _SCALAR:
            return tensors.from_inline(Inline.from_bytes(payload))[()]
        if code == _FRAME and len(payload) >= _INDEX.size:
            (index,) = _INDEX.unpack_from(payload)
            if index in self.unread:
                return tensors.from_inline(Inline.from_parts(bytes(payload[_INDEX.size :]), self.unread.pop(index)))
        raise HandleError(f"a message with extension {code} of {len(payload)} bytes and {self.frames} frames")


def _unopened(wire: memoryview) -> Tensor:
    raise InternalError(f"a handle of {wire.nbytes} bytes is opened outside of a message")


def handles_in(body: bytes | memoryview) -> list[Handle]:
    """Every readable handle of a message that is not going to be opened; none if it cannot be read."""
    found: list[Handle] = []

    def collect(code: int, payload: memoryview) -> None:
        if code == _HANDLE:
            with suppress(ShmTransportError):
                found.append(Handle.from_bytes(payload))

    with suppress(*UNREADABLE):
        msgspec.msgpack.Decoder(ext_hook=collect).decode(body)
    return found


def _place_of(value: object, culprit: object) -> str:
    """Where ``culprit`` stands in ``value``, as a path; only ever walked for an error."""
    stack: list[tuple[str, object]] = [("$", value)]
    seen: set[int] = set()
    while stack:
        path, at = stack.pop()
        if at is culprit:
            return path
        if id(at) not in seen:
            seen.add(id(at))
            stack.extend(_children(path, at))
    return "$"


def _children(path: str, value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield f"{path} (a key)", key
            yield f"{path}.{key}" if isinstance(key, str) and key.isidentifier() else f"{path}[{key!r}]", item
    elif isinstance(value, (list, tuple, set, frozenset)):
        yield from ((f"{path}[{index}]", item) for index, item in enumerate(value))
    elif isinstance(value, msgspec.Struct):
        yield from ((f"{path}.{name}", getattr(value, name)) for name in value.__struct_fields__)
    elif dataclasses.is_dataclass(value):
        yield from ((f"{path}.{field.name}", getattr(value, field.name)) for field in dataclasses.fields(value))
