"""A handle made or opened in one call of the core is what the many calls would have made, or is left to them."""

import subprocess
import sys
import threading
from typing import Any

import numpy as np
import pytest
import torch

from shmtransport import ClosedError, Handle, Reader, Ring, dtypes
from shmtransport.layout import TICKETS, Status
from tests.peers import join_as_if_another_process
from tests.unit.peers import KIB, blocks, die

EXACT = [dtype for dtype in dtypes.TABLE[:21] if dtype.torch is not None]
"""Those that DLPack has too."""


def share(ring: Ring, tensor: object, *readers: Reader, least_nbytes: int = 1) -> bytes | int | None:
    place = ring.attachment
    ids = b"".join(reader.attachment.peer_id for reader in readers)
    return place.core.share_plain(tensor, least_nbytes, place.ring_id_bytes, ids)


def handle_of(ring: Ring, tensor: torch.Tensor, *readers: Reader) -> bytes:
    sent = share(ring, tensor, *readers)
    assert isinstance(sent, bytes)
    return sent


def open_plain(reader: Reader | Ring, wire: object) -> torch.Tensor | None:
    return reader.attachment.core.open_plain(wire, reader.attachment.ring_id_bytes)


@pytest.mark.parametrize("dtype", EXACT, ids=lambda dtype: dtype.name)
@pytest.mark.parametrize("shape", [(), (5,), (2, 3, 1, 4), (1,) * 64])
def test_every_dtype_of_dlpack_arrives_bit_for_bit(
    ring: Ring, reader: Reader, dtype: dtypes.Dtype, shape: tuple[int, ...]
) -> None:
    tensor = ring.empty(shape, dtype.torch or torch.uint8)
    assert isinstance(tensor, torch.Tensor)
    tensor.reshape(-1).view(torch.uint8).random_()
    wire = share(ring, tensor, reader) if not dtype.is_complex else bytes(ring.share(tensor, reader))
    assert isinstance(wire, bytes)
    handle = Handle.from_bytes(wire)
    assert bytes(handle) == wire
    assert (handle.dtype, handle.shape, handle.ring_id.hex()) == (dtype.code, shape, ring.id)
    opened = open_plain(reader, wire)
    assert opened is not None
    assert (opened.dtype, tuple(opened.shape), opened.is_contiguous()) == (dtype.torch, shape, True)
    assert bytes(opened.reshape(-1).view(torch.uint8).numpy()) == bytes(tensor.reshape(-1).view(torch.uint8).numpy())


def test_a_slice_of_a_ring_backed_tensor_is_not_copied_and_other_tensors_are_once(ring: Ring, reader: Reader) -> None:
    backed = ring.put(torch.arange(1000))
    opened = open_plain(reader, handle_of(ring, backed[100:200], reader))
    assert opened is not None
    assert torch.equal(opened, backed[100:200])
    assert ring.statistics().writer.writes == 1
    del opened
    opened = open_plain(reader, handle_of(ring, torch.arange(1000), reader))
    assert opened is not None
    assert torch.equal(opened, backed)
    writer = ring.statistics().writer
    assert (writer.writes, writer.copied_nbytes, writer.shared) == (2, 16000, 2)


def test_a_block_written_for_a_handle_is_given_back_when_that_was_opened_and_dropped(
    ring: Ring, reader: Reader
) -> None:
    wire = handle_of(ring, torch.arange(1000), reader)
    assert blocks(ring) == 1
    opened = open_plain(reader, wire)
    assert opened is not None
    view = opened[10:]
    del opened
    assert ring.attachment.core.settle() == 0
    assert blocks(ring) == 1
    held = [view]
    del view
    dropping = threading.Thread(target=held.clear)
    dropping.start()
    dropping.join()
    assert blocks(ring) == 0


class Subclass(torch.Tensor):
    pass


PLAIN = torch.arange(24, dtype=torch.float32).reshape(4, 6)
NOT_PLAIN = {
    "transposed": PLAIN.t(),
    "a column": PLAIN[:, :3],
    "without elements": torch.empty(0),
    "negated and not yet computed": torch._neg_view(PLAIN),
    "conjugated and not yet computed": torch.ones(3, dtype=torch.complex64).conj(),
    "complex": torch.ones(3, dtype=torch.complex64),
    "of half a byte": torch.empty(3, dtype=torch.uint8).view(torch.uint4),  # type: ignore[attr-defined]
    "sparse": PLAIN.to_sparse(),
    "on the meta device": PLAIN.to("meta"),
    "of a subclass": PLAIN.as_subclass(Subclass),
    "a parameter": torch.nn.Parameter(PLAIN),
    "an array": np.ones(3),
    "nothing like it": "text",
}


@pytest.mark.parametrize("tensor", NOT_PLAIN.values(), ids=NOT_PLAIN.keys())
def test_what_is_not_plain_is_left_to_the_many_calls(ring: Ring, reader: Reader, tensor: Any) -> None:
    assert share(ring, tensor, reader) is None
    assert blocks(ring) == 0


def test_fewer_bytes_than_were_asked_for_are_left_alone(ring: Ring, reader: Reader) -> None:
    assert share(ring, PLAIN, reader, least_nbytes=97) is None
    assert blocks(ring) == 0
    assert isinstance(share(ring, PLAIN, reader, least_nbytes=96), bytes)


def test_a_tensor_of_another_ring_is_not_copied_into_this_one(ring: Ring, reader: Reader) -> None:
    with Ring.create("1MiB") as other:
        foreign = other.put(PLAIN)
        assert share(ring, foreign, reader) is None
        assert blocks(ring) == 0
        other.close()
        assert isinstance(share(ring, torch.ones(9), reader), bytes)
        del foreign


def test_a_full_ring_is_left_to_what_on_full_says(reader: Reader, ring: Ring) -> None:
    held = [ring.put(torch.zeros(1020 * KIB, dtype=torch.uint8)) for _ in range(4)]
    assert share(ring, torch.zeros(1020 * KIB, dtype=torch.uint8), reader) is None
    del held[0]
    assert isinstance(share(ring, torch.zeros(1020 * KIB, dtype=torch.uint8), reader), bytes)


def test_a_reader_that_cannot_get_a_handle_is_named_by_the_reason_and_the_block_given_back(ring: Ring) -> None:
    with join_as_if_another_process(ring.id) as reader:
        die(reader)
        assert share(ring, PLAIN, reader) == Status.NOT_JOINED
    with join_as_if_another_process(ring.id) as reader:
        reader.attachment.core.declare_unmappable(True)
        assert share(ring, PLAIN, reader) == Status.UNMAPPABLE
        reader.attachment.core.declare_unmappable(False)
        backed = ring.put(PLAIN)
        for _ in range(TICKETS):
            handle_of(ring, backed, reader)
        assert share(ring, PLAIN, reader) == Status.NO_TICKET
        del backed
    ring.attachment.core.settle()
    assert blocks(ring) == 0


def test_no_damaged_or_foreign_handle_is_opened(ring: Ring, reader: Reader) -> None:
    backed = ring.put(PLAIN)
    wire = handle_of(ring, backed, reader)
    for position in range(len(wire)):
        for bit in range(8):
            damaged = bytearray(wire)
            damaged[position] ^= 1 << bit
            assert open_plain(reader, damaged) is None
    for length in range(len(wire)):
        assert open_plain(reader, wire[:length]) is None
    assert open_plain(reader, wire + b"\0") is None
    for received in ("text", 5, None, memoryview(wire)[::2], np.zeros((2, 60), np.uint8)[:, ::2]):
        assert open_plain(reader, received) is None
    with Ring.create("1MiB") as other:
        assert open_plain(other, wire) is None
    assert reader.statistics().processes[reader.attachment.index].opened == 0
    assert torch.equal(reader.open(memoryview(wire)), PLAIN)  # type: ignore[arg-type]


def test_a_stale_handle_is_not_opened(ring: Ring, reader: Reader) -> None:
    wire = handle_of(ring, PLAIN, reader)
    assert ring.revoke(Handle.from_bytes(wire))
    assert open_plain(reader, wire) is None
    assert blocks(ring) == 0


def test_after_close_and_death_nothing_is_done(ring: Ring, reader: Reader) -> None:
    wire = handle_of(ring, PLAIN, reader)
    core, ring_id, ids = reader.attachment.core, reader.attachment.ring_id_bytes, ring.attachment.peer_id
    opened = core.open_plain(wire, ring_id)
    assert opened is not None
    reader.close()
    assert reader.share_wire(opened, 1, ids) is None
    with pytest.raises(ClosedError):
        reader.open_wire(wire)
    core.abandon()
    assert core.share_plain(opened, 1, ring_id, ids) is None
    assert core.open_plain(wire, ring_id) is None


def test_arguments_of_another_size_are_refused(ring: Ring) -> None:
    core, ring_id = ring.attachment.core, ring.attachment.ring_id_bytes
    for readers in (ring_id[:5], ring_id * 33, "text"):
        with pytest.raises(ValueError, match="share_plain takes"):
            core.share_plain(PLAIN, 1, ring_id, readers)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="share_plain takes"):
        core.share_plain(PLAIN, 1, ring_id[:5], b"")
    with pytest.raises(ValueError, match="open_plain takes"):
        core.open_plain(b"", ring_id[:5])
    with pytest.raises(OverflowError):
        core.share_plain(PLAIN, -1, ring_id, b"")


WITHOUT = """
import torch
del torch.Tensor.__dlpack_c_exchange_api__
import zmq
from shmtransport import Channel, Ring, _core

assert not _core.know_torch(torch.Tensor, {})
context = zmq.Context()
one, two = context.socket(zmq.PAIR), context.socket(zmq.PAIR)
one.bind("inproc://pair")
two.connect("inproc://pair")
with Ring.create("1MiB") as ring, Channel(one, ring) as sending, Channel(two) as receiving:
    sending.send("here is my ring")
    receiving.recv(timeout_s=10)
    assert sending.join(timeout_s=10)
    sending.send([torch.ones(20000)])
    received = receiving.recv(timeout_s=10)
    assert torch.equal(received[0], torch.ones(20000))
    assert sending.statistics().handles == 1
    del received
context.destroy(linger=0)
"""


def test_a_torch_without_dlpacks_table_is_served_by_many_calls() -> None:
    subprocess.run([sys.executable, "-W", "error", "-c", WITHOUT], check=True, timeout=50)
