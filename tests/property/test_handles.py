"""Handles on their way: what goes in comes out, and what is damaged or forged never becomes a tensor of other bytes.

Attacks by the million are in tests/hostile/.
"""

import struct
from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt
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
    StaleHandleError,
    dtypes,
    handles,
)
from shmtransport.tensors import Tensor
from tests.forging import FIXED_NBYTES, forge, sealed, with_dims
from tests.peers import join_as_if_another_process

REFUSED: Final = (HandleError, LayoutMismatchError, StaleHandleError)
LARGEST_NUMPY_RANK: Final = 64 if np.lib.NumpyVersion(np.__version__) >= "2.0.0" else 32

USABLE: Final = [(handles.KIND_TORCH, dtype) for dtype in dtypes.TABLE if dtype.torch is not None] + [
    (handles.KIND_NUMPY, dtype) for dtype in dtypes.TABLE if dtype.numpy is not None
]

SHAPES: Final = st.lists(st.integers(1, 4), max_size=8).map(tuple)

# The fixture's ring serves all examples of a test: each of them ends with its own tensors dropped.
SHARED_RING: Final = [HealthCheck.function_scoped_fixture]


class Pair:
    """A writer, a reader that shares nothing with it, and one sent handle of a living tensor."""

    def __init__(self, ring: Ring, reader: Reader) -> None:
        self.ring = ring
        self.reader = reader
        self.tensor = ring.put(torch.arange(24, dtype=torch.int32).view(2, 3, 4))
        self.expected = self.tensor.clone()

    def send(self) -> bytes:
        """A handle of the tensor, as bytes."""
        sent = self.ring.share(self.tensor, self.reader.peer_id)
        assert isinstance(sent, Handle)
        return bytes(sent)

    def wire(self) -> bytes:
        """The same, taken back: no ticket stays open, and the block lives on."""
        wire = self.send()
        assert self.ring.revoke(Handle.from_bytes(wire))
        return wire


@pytest.fixture
def pair() -> Iterator[Pair]:
    with Ring.create(capacity="1MiB", segment="1MiB", entries=8) as ring:
        reader = join_as_if_another_process(ring.id)
        with reader:
            made = Pair(ring, reader)
            yield made
            del made.tensor


def raw(tensor: Tensor) -> bytes:
    """All bytes of a contiguous tensor."""
    return raw_view(tensor).tobytes()


def raw_view(tensor: Tensor) -> npt.NDArray[np.uint8]:
    """The tensor's own memory."""
    if isinstance(tensor, torch.Tensor):
        return tensor.reshape(-1).view(torch.uint8).numpy()
    return tensor.reshape(-1).view(np.uint8)


@pytest.mark.parametrize(("kind", "dtype"), USABLE, ids=lambda value: getattr(value, "name", str(value)))
@settings(max_examples=10, suppress_health_check=SHARED_RING)
@given(shape=SHAPES, payload=st.data())
def test_a_tensor_of_any_dtype_and_shape_comes_out_as_it_went_in(
    pair: Pair, kind: int, dtype: dtypes.Dtype, shape: tuple[int, ...], payload: st.DataObject
) -> None:
    nbytes = handles.nbytes_of(dtype.code, shape)
    content = np.random.default_rng(payload.draw(st.integers(0, 99))).integers(0, 256, nbytes, dtype=np.uint8)
    element = dtype.torch if kind == handles.KIND_TORCH else dtype.numpy
    assert element is not None
    sent = pair.ring.empty(shape, element)
    raw_view(sent)[:] = content
    handle = pair.ring.share(sent, pair.reader.peer_id)
    assert isinstance(handle, Handle)
    wire = bytes(handle)
    assert len(wire) == FIXED_NBYTES + 8 * len(shape) + 4
    assert len(wire) < 128
    assert Handle.from_bytes(wire) == handle
    got = pair.reader.open(wire)
    assert type(got) is type(sent)
    assert got.dtype == sent.dtype
    assert tuple(got.shape) == shape
    assert raw(got) == content.tobytes()


@pytest.mark.parametrize("rank", range(handles.LARGEST_RANK + 1))
def test_a_tensor_of_any_rank_comes_out_as_it_went_in(pair: Pair, rank: int) -> None:
    for kind in (torch.uint8, np.dtype(np.uint8)):
        if isinstance(kind, np.dtype) and rank > LARGEST_NUMPY_RANK:
            continue
        sent = pair.ring.empty((1,) * (rank - 1) + (7,) * min(rank, 1), kind)
        raw_view(sent)[:] = rank
        handle = pair.ring.share(sent, pair.reader.peer_id)
        got = pair.reader.open(bytes(handle))
        assert got.shape == sent.shape
        assert raw(got) == raw(sent)


@settings(max_examples=100, suppress_health_check=SHARED_RING)
@given(cut=st.data())
def test_a_slice_comes_out_as_it_went_in(pair: Pair, cut: st.DataObject) -> None:
    count = cut.draw(st.integers(1, 5000))
    sent = pair.ring.put(torch.arange(count, dtype=torch.int16))
    start = cut.draw(st.integers(0, count - 1))
    stop = cut.draw(st.integers(start + 1, count))
    handle = pair.ring.share(sent[start:stop], pair.reader.peer_id)
    got = pair.reader.open(bytes(handle))
    assert isinstance(got, torch.Tensor)
    assert torch.equal(got, torch.arange(start, stop, dtype=torch.int16))


def test_every_flipped_bit_is_refused_and_the_handle_still_opens(pair: Pair) -> None:
    wire = pair.send()
    for bit in range(8 * len(wire)):
        damaged = bytearray(wire)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(REFUSED):
            pair.reader.open(damaged)
    assert pair.ring.attachment.core.settle() == 1, "damage acknowledges no ticket"
    got = pair.reader.open(wire)
    assert raw(got) == raw(pair.expected)


def test_every_truncation_and_extension_is_refused(pair: Pair) -> None:
    wire = pair.wire()
    for nbytes in range(len(wire)):
        with pytest.raises(HandleError):
            pair.reader.open(wire[:nbytes])
    for more in (b"\0", b"\0" * 8, wire, wire[-4:]):
        with pytest.raises(HandleError):
            pair.reader.open(wire + more)
        with pytest.raises(HandleError):
            pair.reader.open(wire[:-4] + more + wire[-4:])


@settings(max_examples=500, suppress_health_check=SHARED_RING)
@given(changes=st.lists(st.tuples(st.integers(0, 71), st.integers(0, 255)), min_size=1, max_size=6))
def test_a_mutated_handle_is_refused_or_is_the_handle(pair: Pair, changes: list[tuple[int, int]]) -> None:
    wire = pair.wire()
    mutated = bytearray(wire)
    for position, value in changes:
        mutated[position] = value
    try:
        got = pair.reader.open(mutated)
    except REFUSED:
        assert mutated != wire
    else:
        assert mutated == wire
        assert raw(got) == raw(pair.expected)


@settings(max_examples=300)
@given(st.binary(max_size=200) | st.binary(max_size=200).map(lambda tail: b"\xb5\x01" + tail))
def test_any_other_bytes_are_refused(wire: bytes) -> None:
    with pytest.raises((HandleError, LayoutMismatchError)):
        Handle.from_bytes(wire)


@pytest.mark.parametrize("version", [0, 2, 255])
def test_another_version_is_a_layout_mismatch_even_if_all_else_is_right(pair: Pair, version: int) -> None:
    body = pair.wire()[:-4]
    forged = sealed(body[:1] + bytes([version]) + body[2:])
    with pytest.raises(LayoutMismatchError, match=rf"expected.*1.*got {version}"):
        pair.reader.open(forged)


HOSTILE: Final[dict[str, list[int]]] = {
    "kind": [2, 255],
    "dtype": [len(dtypes.TABLE), 255],
    "sender": [32, 255],
    "ticket": [2048, 65535],
    "entry": [1, 7, 8, 1 << 31, (1 << 32) - 1],
    "generation": [0, 2, 1 << 31, (1 << 32) - 1],
    "offset": [1, 96, 1 << 20, (1 << 63) - 1, 1 << 63, (1 << 64) - 96, (1 << 64) - 1],
}
DIMS: Final = [
    (25,), (0,), (1, 0, 1), (1 << 62,), ((1 << 63) - 1,), (1 << 63,), ((1 << 64) - 1,), (1 << 32, 1 << 32),
    (1 << 31, 1 << 31), ((1 << 64) - 1, (1 << 64) - 1), (2, 3, 4, 2), (1 << 20,), (1,) * 63 + (25,), (2,) * 64,
]  # fmt: skip


@pytest.mark.parametrize(("field", "value"), [(field, value) for field, of in HOSTILE.items() for value in of])
def test_a_forged_field_is_refused(pair: Pair, field: str, value: int) -> None:
    with pytest.raises((HandleError, StaleHandleError)):
        pair.reader.open(forge(pair.wire(), **{field: value}))
    assert pair.ring.attachment.core.blocks()[0][2] == 1, "a refused handle leaves no lease"


@pytest.mark.parametrize("dims", DIMS, ids=str)
def test_a_forged_shape_is_refused(pair: Pair, dims: tuple[int, ...]) -> None:
    for kind in (handles.KIND_TORCH, handles.KIND_NUMPY):
        with pytest.raises(HandleError):
            pair.reader.open(with_dims(forge(pair.wire(), kind=kind), dims))


@pytest.mark.parametrize("rank", [0, 4, 64, 65, 128, 200, 255])
def test_a_forged_rank_is_refused(pair: Pair, rank: int) -> None:
    wire = pair.wire()
    with pytest.raises(HandleError):
        pair.reader.open(with_dims(wire, (2, 3, 4), rank))
    if rank > handles.LARGEST_RANK:
        with pytest.raises(HandleError):
            pair.reader.open(with_dims(wire, (1,) * (rank - 1) + (24,)))


def test_a_handle_of_another_ring_is_refused(pair: Pair) -> None:
    other = Ring.create(capacity="64KiB", segment="64KiB", entries=8)
    with other, pytest.raises(HandleError, match="ring"):
        other.open(pair.wire())


@settings(max_examples=600, suppress_health_check=SHARED_RING)
@given(
    fields=st.fixed_dictionaries(
        {},
        optional={
            "kind": st.integers(0, 3),
            "dtype": st.integers(0, 63),
            "sender": st.integers(0, 40),
            "ticket": st.integers(0, 65535),
            "entry": st.integers(0, 9) | st.integers(0, (1 << 32) - 1),
            "generation": st.integers(0, 3) | st.integers(0, (1 << 32) - 1),
            "offset": st.integers(0, 128) | st.integers(0, (1 << 64) - 1),
            "sequence": st.integers(0, (1 << 32) - 1),
        },
    ),
    dims=st.none() | st.lists(st.integers(0, 30) | st.integers(0, (1 << 64) - 1), max_size=64).map(tuple),
)
@example(fields={"kind": handles.KIND_NUMPY}, dims=(1,) * 40 + (24,))
def test_a_forger_reaches_no_byte_outside_a_living_block(
    pair: Pair, fields: dict[str, int], dims: tuple[int, ...] | None
) -> None:
    forged = forge(pair.wire(), **fields)
    forged = forged if dims is None else with_dims(forged, dims)
    handle = fields.get("offset", 0)
    try:
        got = pair.reader.open(forged)
    except (HandleError, StaleHandleError):
        return
    finally:
        assert pair.ring.attachment.core.blocks()[0][1] == 1
    assert raw(got) == raw(pair.expected)[handle : handle + got.nbytes], "only bytes of the block that it names"
    assert got.nbytes > 0


@settings(max_examples=400)
@given(
    head=st.tuples(st.integers(0, 2), st.integers(0, len(dtypes.TABLE)), st.integers(0, 70)),
    dims=st.lists(st.integers(0, 5) | st.integers(0, (1 << 64) - 1), max_size=6),
    payload=st.binary(max_size=64),
)
@example(head=(handles.KIND_TORCH, 1, 2), dims=[0, (1 << 64) - 1], payload=b"")
@example(head=(handles.KIND_NUMPY, 1, 2), dims=[0, (1 << 64) - 1], payload=b"")
@example(head=(handles.KIND_TORCH, 1, 3), dims=[0, 1 << 62, 1 << 62], payload=b"")
@example(head=(handles.KIND_NUMPY, 1, 3), dims=[0, 1 << 62, 1 << 62], payload=b"")
@example(head=(handles.KIND_NUMPY, 1, 64), dims=[1] * 64, payload=b"x")
@example(head=(handles.KIND_TORCH, 1, 64), dims=[1] * 64, payload=b"x")
def test_forged_inline_bytes_are_refused_or_are_their_payload(
    pair_of_none: Ring, head: tuple[int, int, int], dims: list[int], payload: bytes
) -> None:
    kind, dtype, rank = head
    wire = struct.pack(f"<BBBBB{len(dims)}Q", 0xB6, 1, kind, dtype, rank, *dims) + payload
    try:
        got = pair_of_none.open(wire)
    except HandleError:
        return
    assert raw(got) == wire[len(wire) - got.nbytes :]
    assert isinstance(Inline.from_bytes(wire), Inline)


@pytest.fixture(scope="module")
def pair_of_none() -> Iterator[Ring]:
    """A ring of which nothing is used: inline bytes need none."""
    with Ring.create(capacity="64KiB", segment="64KiB", entries=8) as ring:
        yield ring
