"""A place that was closed opens nothing any more, so a handle to it must keep nobody in the ring: not its sender, and
not those that wait for each other in a circle.
"""

import torch

from shmtransport import Handle, Reader, Ring, segment
from shmtransport.endpoint import Endpoint
from tests.peers import join_as_if_another_process
from tests.support import wait_until


def send(sender: Endpoint, tensor: torch.Tensor, to: Endpoint) -> bytes:
    """A handle on its way."""
    handle = sender.share(tensor, to)
    assert isinstance(handle, Handle)
    return bytes(handle)


def indices(ring: Ring) -> set[int]:
    """Of the processes that hold their lock."""
    return {row[0] for row in ring.attachment.core.rows() if row[2]}


def test_a_writer_that_closes_with_a_handle_to_itself_leaves() -> None:
    ring = Ring.create(capacity="64KiB", segment="64KiB", entries=8)
    send(ring, ring.put(torch.arange(10)), ring)
    ring.close()
    wait_until(lambda: ring.id not in segment.rings(), 2.0)


def test_a_reader_that_closes_with_a_handle_to_itself_leaves_and_gives_its_block_back() -> None:
    with Ring.create(capacity="64KiB", segment="64KiB", entries=8) as ring:
        reader = join_as_if_another_process(ring.id)
        tensor = reader.open(send(ring, ring.put(torch.arange(10)), reader))
        assert isinstance(tensor, torch.Tensor)
        send(reader, tensor, reader)
        del tensor
        reader.close()
        wait_until(lambda: indices(ring) == {0}, 2.0)
        assert ring.attachment.core.room()[3] == 0


def test_two_readers_that_close_with_handles_to_each_other_both_leave() -> None:
    with Ring.create(capacity="64KiB", segment="64KiB", entries=8) as ring:
        readers = [join_as_if_another_process(ring.id) for _ in range(2)]
        wire = [send(ring, ring.put(torch.arange(10)), reader) for reader in readers]
        forward(readers, wire)
        for reader in readers:
            reader.close()
        wait_until(lambda: indices(ring) == {0}, 2.0)
        assert ring.attachment.core.room()[3] == 0


def forward(readers: list[Reader], wire: list[bytes]) -> None:
    """Each opens its handle and sends one to the next, which never opens it."""
    for position, reader in enumerate(readers):
        tensor = reader.open(wire[position])
        assert isinstance(tensor, torch.Tensor)
        send(reader, tensor, readers[position - 1])


def test_a_reader_that_closed_holds_up_only_what_it_has_opened() -> None:
    """Its tensors live on, so it stays in the ring; a handle to it will never be opened."""
    with Ring.create(capacity="64KiB", segment="64KiB", entries=8) as ring:
        reader = join_as_if_another_process(ring.id)
        kept = reader.open(send(ring, ring.put(torch.arange(10)), reader))
        send(ring, ring.put(torch.arange(20)), reader)
        reader.close()
        wait_until(lambda: ring.attachment.core.settle() == 0, 2.0)
        assert ring.attachment.core.room()[3] == 1
        del kept
