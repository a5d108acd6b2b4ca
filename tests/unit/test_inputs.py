"""What cannot be sent is refused with its type, its place and the remedy, and leaves nothing behind."""

import datetime
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
import zmq

from shmtransport import Channel, Handle, HandleError, LayoutMismatchError, Reader, Ring, UnsupportedTypeError, codec
from tests.peers import join_as_if_another_process
from tests.unit.peers import blocks

NUMBERED = np.dtype([("x", "f4"), ("y", "f4")])


# Each with what its error must say.
REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "quantized": (
        lambda: torch.quantize_per_tensor(torch.randn(8), 0.1, 0, torch.qint8),
        r"torch.qint8: dequantize\(\) it first",
    ),
    "coo": (lambda: torch.eye(4).to_sparse(), r"layout torch.sparse_coo: to_dense\(\) it first"),
    "csr": (lambda: torch.eye(4).to_sparse_csr(), r"layout torch.sparse_csr: to_dense\(\) it first"),
    "nested": (lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), "strided tensor"),
    "meta": (lambda: torch.empty(4, device="meta"), "one on the meta device"),
    "objects": (lambda: np.array([object(), None]), "an array of object: objects cannot be shared"),
    "a field of objects": (lambda: np.zeros(2, [("a", "O"), ("b", "f4")]), "objects cannot be shared"),
    "big-endian": (lambda: np.arange(4, dtype=">f4"), r"got >f4: astype\('float32'\) it first"),
    "big-endian complex": (lambda: np.zeros(4, ">c16"), r"got >c16: astype\('complex128'\) it first"),
    "records": (lambda: np.zeros(4, NUMBERED), r"view\(\) it as bytes or integers"),
    "text": (lambda: np.array(["a", "b"]), r"<U1: view\(\) it as bytes or integers"),
    "bytes": (lambda: np.array([b"a", b"b"]), r"S1: view\(\) it as bytes or integers"),
    "dates": (lambda: np.zeros(3, "M8[s]"), r"datetime64\[s\]: view\(\) it as bytes or integers"),
    "long double": (lambda: np.zeros(3, np.longdouble), r"view\(\) it as bytes or integers"),
    "masked": (lambda: np.ma.masked_array([1, 2, 3], [False, True, False]), r"got a MaskedArray: send .data and .mask"),
}
# What torch says of making some of them.
making = pytest.mark.filterwarnings(
    "ignore:Sparse CSR tensor support is in beta state",
    "ignore:The PyTorch API of nested tensors is in prototype stage",
    "ignore:.*quantize",
)


@pytest.fixture
def ring() -> Iterator[Ring]:
    with Ring.create(capacity="4MiB", segment="1MiB") as ring:
        yield ring


@pytest.fixture
def reader(ring: Ring) -> Iterator[Reader]:
    with join_as_if_another_process(ring.id) as reader:
        yield reader


@pytest.fixture
def channel(ring: Ring) -> Iterator[Channel]:
    """One whose other end never answers: what is sent can be counted."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    with context, context.socket(zmq.PAIR) as near, context.socket(zmq.PAIR) as far:
        near.bind("inproc://inputs")
        far.connect("inproc://inputs")
        with Channel(near, ring, threshold=1) as channel:
            yield channel


@making
@pytest.mark.parametrize("kind", REFUSED)
def test_a_tensor_that_cannot_be_shared_is_refused_with_its_type_and_the_remedy(
    ring: Ring, reader: Reader, kind: str
) -> None:
    make, says = REFUSED[kind]
    value = make()
    for attempt in (
        lambda: ring.put(value),
        lambda: ring.share(value, reader),
        lambda: reader.share(value, reader),
        lambda: ring.holds(value),
    ):
        with pytest.raises(UnsupportedTypeError, match=says) as caught:
            attempt()
        assert isinstance(caught.value, TypeError)
    assert blocks(ring) == 0
    assert ring.statistics().writer.writes == 0


@making
@pytest.mark.parametrize("kind", REFUSED)
def test_in_a_message_the_error_names_the_place_and_nothing_is_sent_or_leased(
    ring: Ring, channel: Channel, kind: str
) -> None:
    make, says = REFUSED[kind]
    value = make()
    good = torch.arange(1000)
    with pytest.raises(UnsupportedTypeError, match=rf"{says}.* - at \$\.images\[3\]$"):
        channel.send({"prompt": "what is this?", "images": [good, good + 1, good + 2, value]})
    assert channel.statistics().sent == 0
    assert blocks(ring) == 0


class Opaque:
    """Nothing that a message can carry."""


@dataclass
class Request:
    """As in the documentation."""

    prompt: str
    images: list[object]


class Batch(msgspec.Struct):
    """Requests of one step."""

    requests: list[Request]


OPAQUE: list[Any] = [Opaque(), object(), Opaque, len, lambda: 0, SimpleNamespace(), iter("abc"), torch.float32, 1j]


@pytest.mark.parametrize("value", OPAQUE, ids=lambda value: type(value).__name__)
def test_an_unknown_type_is_refused_with_its_name_and_place(ring: Ring, channel: Channel, value: Any) -> None:
    name = f"{type(value).__module__}.{type(value).__qualname__}"
    for message, place in [
        (value, r"\$"),
        ([1, value], r"\$\[1\]"),
        ((torch.zeros(9), {"deep": [value]}), r"\$\[1\]\.deep\[0\]"),
        ({"not an identifier": value}, r"\$\['not an identifier'\]"),
        ({7: value}, r"\$\[7\]"),
        (Request("?", [torch.zeros(9), value]), r"\$\.images\[1\]"),
        (Batch([Request("a", []), Request("b", [value])]), r"\$\.requests\[1\]\.images\[0\]"),
    ]:
        with pytest.raises(UnsupportedTypeError, match=rf"cannot send a {name} - at {place}$"):
            channel.send(message)
    assert channel.statistics().sent == 0
    assert blocks(ring) == 0


@pytest.mark.parametrize("value", [1 << 64, -(1 << 63) - 1, "\ud800", {(1, 2): [Opaque()]}])
def test_a_value_that_msgpack_cannot_hold_is_refused(ring: Ring, channel: Channel, value: Any) -> None:
    with pytest.raises(UnsupportedTypeError, match="cannot send a"):
        channel.send([torch.zeros(9), value])
    assert channel.statistics().sent == 0
    assert blocks(ring) == 0


def test_an_object_that_contains_itself_is_refused(ring: Ring, channel: Channel) -> None:
    circle: list[object] = [torch.zeros(9)]
    circle.append(circle)
    with pytest.raises(UnsupportedTypeError, match="contains itself"):
        channel.send(circle)
    assert channel.statistics().sent == 0
    assert blocks(ring) == 0


def test_a_refused_message_leaves_no_lease_although_its_first_tensors_were_shared(ring: Ring, reader: Reader) -> None:
    handles: list[Handle] = []

    def place(tensor: object) -> Handle:
        sent = ring.share(tensor, reader)  # type: ignore[arg-type]
        assert isinstance(sent, Handle)
        handles.append(sent)
        return sent

    with pytest.raises(UnsupportedTypeError, match=r"at \$\[2\]"):
        codec.Encoder().encode([torch.zeros(99), torch.ones(99), Opaque()], place)
    assert len(handles) == 2
    for handle in handles:
        assert ring.revoke(handle)
    assert blocks(ring) == 0


@pytest.mark.parametrize("value", [None, 5, "text", b"bytes", [1.0], Opaque(), memoryview(b"abc"), torch.Size([1])])
def test_put_takes_tensors_and_arrays_only(ring: Ring, value: Any) -> None:
    with pytest.raises(UnsupportedTypeError, match=f"torch.Tensor or numpy.ndarray, got {type(value).__qualname__}"):
        ring.put(value)


@pytest.mark.parametrize("dtype", ["f16", "U3", object, "M8[s]", ">f4", NUMBERED], ids=str)
def test_empty_takes_number_types_only(ring: Ring, dtype: Any) -> None:
    with pytest.raises(UnsupportedTypeError, match="plain number type"):
        ring.empty((2,), dtype)
    assert blocks(ring) == 0


@pytest.mark.parametrize("received", [b"", b"\x00", b"hello", b"\xb5", b"\xb5\x01", b"\xb6", b"\xb6\x01", bytes(200)])
def test_bytes_that_are_no_handle_are_refused(reader: Reader, received: bytes) -> None:
    for form in (received, bytearray(received), memoryview(received)):
        with pytest.raises(HandleError, match=r"expected .* got"):
            reader.open(form)


@pytest.mark.parametrize("received", [b"\xb5\x02" + bytes(60), b"\xb6\x00" + bytes(60)])
def test_another_version_is_refused_and_both_are_printed(reader: Reader, received: bytes) -> None:
    with pytest.raises(LayoutMismatchError, match=f"of version 1, got {received[1]}: install the same"):
        reader.open(received)


def test_what_msgspec_knows_beyond_tensors_is_sent_as_msgspec_does(ring: Ring) -> None:
    def place(tensor: Any) -> Any:
        raise AssertionError("no tensor here")

    now = datetime.datetime(2024, 5, 17, 12, 30, tzinfo=datetime.UTC)
    body, frames = codec.Encoder().encode({"at": now, "set": {1}, "none": None, "scalar": np.float32(0.5)}, place)
    decoded = codec.Decoder().decode(body, frames, place)
    assert decoded == {"at": now, "set": [1], "none": None, "scalar": 0.5}
    assert decoded["scalar"].dtype == np.float32


@pytest.mark.parametrize("sent", ["a handle", None, torch.ones(3)])
def test_what_is_neither_a_handle_nor_bytes_is_an_error_that_says_so(ring: Ring, sent: Any) -> None:
    with pytest.raises(UnsupportedTypeError, match=f"the bytes of one, got {type(sent).__name__}"):
        ring.open(sent)
