"""Nested objects through the codec: every tensor comes out bit by bit, whichever way it went."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any, Final

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from shmtransport import (
    Handle,
    HandleError,
    Inline,
    LayoutMismatchError,
    Reader,
    Ring,
    ShmTransportError,
    codec,
    dtypes,
    handles,
    tensors,
)
from shmtransport.tensors import Tensor
from tests.peers import join_as_if_another_process

NBYTES: Final = [0, 1, 3, 64, 4096, 65535, 65536, 70000]


@st.composite
def tensors_of_any_kind(draw: st.DrawFn) -> Tensor:
    """Torch or numpy, any dtype, any rank from 0, with and without elements, contiguous or not."""
    library, known = draw(st.sampled_from(_MAKERS))
    if draw(st.integers(0, 4)):
        shape = tuple(draw(st.lists(st.integers(0, 4), max_size=5)))
    else:
        shape = (draw(st.sampled_from(NBYTES)) // known.itemsize,)
    nbytes = math.prod(shape) * known.itemsize
    content = np.random.default_rng(draw(st.integers(0, 99))).integers(0, 256, nbytes, np.uint8)
    if library == handles.KIND_TORCH:
        assert known.torch is not None
        made: Tensor = torch.frombuffer(bytearray(content) + bytearray(16), dtype=torch.uint8)[: content.size]
        made = made.view(known.torch).view(shape)
    else:
        made = content.view(known.numpy).reshape(shape)
    if made.ndim == 2 and draw(st.booleans()):
        made = made.T
    return made


_MAKERS: Final = [(handles.KIND_TORCH, dtype) for dtype in dtypes.TABLE if dtype.torch is not None] + [
    (handles.KIND_NUMPY, dtype) for dtype in dtypes.TABLE if dtype.numpy is not None
]

TEXTS: Final = st.text(st.characters(exclude_categories=["Cs"]), max_size=9)
PLAIN: Final = (
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats(allow_nan=False)
    | TEXTS
    | st.binary(max_size=20)
)
SCALARS: Final = st.integers(-128, 127).map(np.int8) | st.floats(width=32, allow_nan=False).map(np.float32)


@dataclasses.dataclass
class Request:
    """As an application's own message might be."""

    name: str
    pixels: torch.Tensor
    masks: list[np.ndarray[Any, Any]]


class Answer(msgspec.Struct):
    """The same as a msgspec.Struct that contains the other."""

    requests: list[Request]
    embedding: torch.Tensor | None = None


OBJECTS: Final = st.recursive(
    PLAIN | tensors_of_any_kind() | SCALARS,
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(TEXTS | st.integers(0, 99), inner, max_size=4)
    ),
    max_leaves=12,
)


def inline(tensor: Tensor) -> Inline:
    """A place that has no ring."""
    return tensors.to_inline(tensor, tensors.describe(tensor))


def never(wire: memoryview) -> Tensor:
    raise AssertionError(f"nobody sent {bytes(wire)!r}")


def raw(tensor: Tensor) -> bytes:
    """Its elements' bytes in order."""
    payload = bytes(inline(tensor).payload)
    assert len(payload) == tensor.nbytes
    return payload


def assert_same(got: object, sent: object) -> None:
    """Equal in every bit, but for what msgpack cannot say: a tuple comes out as a list, a -0.0 as itself."""
    if isinstance(sent, torch.Tensor | np.ndarray):
        assert isinstance(got, torch.Tensor | np.ndarray)
        assert (type(got), got.dtype, tuple(got.shape)) == (type(sent), sent.dtype, tuple(sent.shape))
        assert raw(got) == raw(sent)
    elif isinstance(sent, np.generic):
        assert type(got) is type(sent)
        assert got == sent
    elif isinstance(sent, list | tuple):
        assert isinstance(got, list)
        assert len(got) == len(sent)
        for one, other in zip(got, sent, strict=True):
            assert_same(one, other)
    elif isinstance(sent, dict):
        assert isinstance(got, dict)
        assert list(got) == list(sent)
        for key in sent:
            assert_same(got[key], sent[key])
    elif dataclasses.is_dataclass(sent) or isinstance(sent, msgspec.Struct):
        assert type(got) is type(sent)
        for name in getattr(sent, "__struct_fields__", getattr(sent, "__dataclass_fields__", ())):
            assert_same(getattr(got, name), getattr(sent, name))
    else:
        assert type(got) is type(sent)
        assert got == sent


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(OBJECTS)
def test_any_nested_object_comes_out_as_it_went_in_without_a_ring(sent: object) -> None:
    body, frames = codec.Encoder().encode(sent, inline)
    assert all(frame.nbytes >= 65536 for frame in frames), "small ones are in the body"
    assert len(body) < 1 << 20
    assert_same(codec.Decoder().decode(body, frames, never), sent)
    assert_same(codec.Decoder().decode(memoryview(body), [memoryview(bytes(frame)) for frame in frames], never), sent)


class Pair:
    """A writer and a reader that shares nothing with it."""

    def __init__(self, ring: Ring, reader: Reader) -> None:
        self.ring = ring
        self.reader = reader
        self.handles = 0

    def place(self, tensor: Tensor) -> Handle | Inline:
        """As a channel does, with a threshold of one byte."""
        answer = self.ring.share(tensor, self.reader.peer_id)
        self.handles += isinstance(answer, Handle)
        return answer

    def leased(self) -> int:
        """Blocks that anybody holds once everything is settled."""
        self.ring.attachment.core.settle()
        return len(self.ring.attachment.core.blocks())


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    ring = Ring.create(capacity="4MiB", segment="2MiB", entries=64, on_full="inline")
    with ring, join_as_if_another_process(ring.id) as reader:
        yield Pair(ring, reader)


def tensors_in(value: object) -> Iterator[Tensor]:
    """Those with bytes."""
    if isinstance(value, torch.Tensor | np.ndarray):
        yield from [value] if value.nbytes else []
    elif isinstance(value, dict):
        yield from (tensor for item in value.values() for tensor in tensors_in(item))
    elif isinstance(value, list | tuple):
        yield from (tensor for item in value for tensor in tensors_in(item))


@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow])
@given(OBJECTS)
def test_any_nested_object_comes_out_as_it_went_in_through_a_ring_and_leaves_no_lease(pair: Pair, sent: object) -> None:
    made = pair.handles
    body, frames = codec.Encoder().encode(sent, pair.place)
    assert pair.handles - made == sum(1 for _ in tensors_in(sent)), "each tensor with bytes went by handle"
    assert frames == []
    got = codec.Decoder().decode(body, frames, pair.reader.open)
    assert_same(got, sent)
    del got
    assert pair.leased() == 0


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(name=TEXTS, count=st.integers(0, 3), parts=st.data())
def test_a_dataclass_in_a_struct_comes_out_as_itself_where_its_type_is_named(
    pair: Pair, name: str, count: int, parts: st.DataObject
) -> None:
    torch_only = tensors_of_any_kind().filter(lambda tensor: isinstance(tensor, torch.Tensor))
    numpy_only = tensors_of_any_kind().filter(lambda tensor: isinstance(tensor, np.ndarray))
    requests: list[Any] = [
        Request(name, parts.draw(torch_only), parts.draw(st.lists(numpy_only, max_size=2)))  # type: ignore[arg-type]
        for _ in range(count)
    ]
    sent = Answer(requests, parts.draw(st.none() | torch_only))  # type: ignore[arg-type]
    body, frames = codec.Encoder().encode(sent, pair.place)
    got = codec.Decoder().decode(body, frames, pair.reader.open, Answer)
    assert_same(got, sent)
    del got
    assert pair.leased() == 0


SAMPLE: Final = {
    "name": "astronaut", "sizes": [1, 2.5, None, True], "raw": b"abc", "scalar": np.float32(0.5),
    "pixels": torch.arange(6, dtype=torch.int16).view(2, 3), "mask": np.ones((2, 2), np.bool_),
    "large": torch.zeros(70000, dtype=torch.uint8),
}  # fmt: skip


@settings(max_examples=600)
@given(
    changes=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=4),
    cut=st.integers(0, 400),
    lost=st.booleans(),
)
def test_a_damaged_message_is_refused_or_decodes_to_something(
    changes: list[tuple[int, int]], cut: int, lost: bool
) -> None:
    """Nothing but our own errors and msgspec's comes out of hostile bytes, and no crash."""
    body, frames = codec.Encoder().encode(SAMPLE, inline)
    damaged = bytearray(body)
    for position, value in changes:
        damaged[position % len(damaged)] = value
    try:
        codec.Decoder().decode(bytes(damaged[: len(damaged) - cut]), [] if lost else frames, never)
    except (ShmTransportError, msgspec.ValidationError):  # the latter for a timestamp out of range
        return
    assert not (lost and damaged == body)


def test_a_damaged_handle_in_a_message_is_refused_and_what_was_opened_before_it_is_let_go(pair: Pair) -> None:
    sent = pair.ring.put(torch.arange(100))
    body, frames = codec.Encoder().encode([sent, sent], pair.place)
    wire_nbytes = len(bytes(Handle(bytes(16), 0, 0, 0, 0, 0, (1,), 0, 0, 0)))
    opened = 0

    def open_and_count(wire: memoryview) -> Tensor:
        nonlocal opened
        tensor = pair.reader.open_wire(wire)
        opened += 1
        return tensor

    for position in range(len(body) - wire_nbytes, len(body)):
        damaged = bytearray(body)
        damaged[position] ^= 0x40
        with pytest.raises((HandleError, LayoutMismatchError)):
            codec.Decoder().decode(bytes(damaged), frames, open_and_count)
    assert opened == wire_nbytes, "the first one each time, the damaged one never"
    assert pair.ring.attachment.core.settle() == 1, "the damaged one is still on its way"
    assert_same(codec.Decoder().decode(body, frames, pair.reader.open), [sent, sent])
    del sent
    assert pair.leased() == 0


@settings(max_examples=500)
@given(st.binary(max_size=100))
@example(b"\x91" * 100_000)
@example(b"\xdf\xff\xff\xff\xff")
@example(b"\x81\x80\x01")
def test_any_bytes_are_refused_or_decode_to_something(body: bytes) -> None:
    try:
        codec.Decoder().decode(body, [], never)
    except (ShmTransportError, msgspec.ValidationError):
        return
