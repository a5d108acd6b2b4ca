"""Who keeps a block and for how long: tensors, handles on their way, readers; and what the ring says of it."""

import threading
import weakref

import pytest
import torch

from shmtransport import (
    ClosedError,
    Handle,
    HandleError,
    Inline,
    Reader,
    Ring,
    RingFullError,
    StaleHandleError,
    layout,
)
from tests.peers import join_as_if_another_process
from tests.support import wait_until
from tests.unit.peers import MIB, NOBODY, blocks, bytes_tensor, die, opened, shared

# -- leases and handles -----------------------------------------------------------------------------------------


def test_a_block_is_given_back_with_the_last_view_over_it(ring: Ring) -> None:
    tensor = ring.put(torch.arange(1000))
    view, array = tensor[5:9], tensor.numpy()
    del tensor
    assert blocks(ring) == 1
    del view
    assert blocks(ring) == 1
    del array
    assert blocks(ring) == 0


def test_a_block_is_given_back_from_any_thread(ring: Ring) -> None:
    held = [ring.put(torch.arange(1000))]
    thread = threading.Thread(target=held.clear)
    thread.start()
    thread.join()
    assert blocks(ring) == 0


def test_an_unopened_handle_keeps_the_block_without_any_tensor(ring: Ring, reader: Reader) -> None:
    handle = shared(ring, ring.put(torch.arange(1000)), reader)
    assert blocks(ring) == 1
    got = opened(reader, handle)
    assert torch.equal(got, torch.arange(1000))
    del got
    wait_until(lambda: blocks(ring) == 0)  # the settler ends the writer's lease within a slice


def test_a_reader_keeps_the_block_after_the_writer_has_dropped_it(ring: Ring, reader: Reader) -> None:
    got = opened(reader, shared(ring, ring.put(torch.arange(1000)), reader))
    held = [ring.put(torch.zeros(1000, dtype=torch.int64)) for _ in range(20)]
    assert torch.equal(got, torch.arange(1000))
    processes = ring.statistics().processes
    assert [process.leased_blocks for process in processes][1] == 1
    del got, held
    wait_until(lambda: blocks(ring) == 0)


def test_several_handles_for_one_block_can_be_in_flight_to_one_reader(ring: Ring, reader: Reader) -> None:
    tensor = ring.put(torch.arange(1000))
    handles = [shared(ring, tensor, reader) for _ in range(10)]
    assert len({handle.ticket for handle in handles}) == 10
    del tensor
    got = [opened(reader, handle) for handle in handles[:9]]
    got.clear()
    assert torch.equal(opened(reader, handles[9]), torch.arange(1000))
    wait_until(lambda: blocks(ring) == 0)


def test_one_ticket_serves_several_readers(ring: Ring) -> None:
    readers = [join_as_if_another_process(ring.id, f"engine {number}") for number in range(5)]
    wire = bytes(shared(ring, ring.put(torch.arange(1000)), *readers))
    assert ring.statistics().writer.shared == 1
    assert ring.statistics().writer.writes == 1
    for number, reader in enumerate(readers):
        assert blocks(ring) == 1, number
        assert torch.equal(opened(reader, Handle.from_bytes(wire)), torch.arange(1000))
    wait_until(lambda: blocks(ring) == 0)
    assert [process.opened for process in ring.statistics().processes[1:]] == [1] * 5
    for reader in readers:
        reader.close()


def test_readers_are_named_by_object_or_id_alone_or_together(ring: Ring, reader: Reader) -> None:
    tensor = ring.put(torch.arange(1000))
    for readers in (reader, reader.peer_id, [reader], [reader.peer_id], (reader, reader.peer_id)):
        sent = ring.share(tensor, readers)
        assert isinstance(sent, Handle)
        opened(reader, sent)


def test_the_writer_opens_its_own_handles(ring: Ring) -> None:
    tensor = ring.put(torch.arange(1000))
    got = ring.open(ring.share(tensor, ring))
    assert isinstance(got, torch.Tensor)
    assert got.data_ptr() == tensor.data_ptr()
    own = Reader.join(ring.id)
    assert own.peer_id == ring.peer_id


def test_a_reader_forwards_a_tensor_without_touching_a_byte(ring: Ring, reader: Reader) -> None:
    third = join_as_if_another_process(ring.id, "worker")
    got = opened(reader, shared(ring, ring.put(torch.arange(1000)), reader))
    sent = reader.share(got[100:200], third)
    assert isinstance(sent, Handle)
    del got
    assert torch.equal(opened(third, sent), torch.arange(100, 200))
    assert ring.statistics().writer.writes == 1
    wait_until(lambda: blocks(ring) == 0)
    third.close()


def test_a_tensor_that_is_in_no_block_of_a_readers_ring_goes_inline(ring: Ring, reader: Reader) -> None:
    third = join_as_if_another_process(ring.id)
    sent = reader.share(torch.arange(10), third)
    assert isinstance(sent, Inline)
    assert torch.equal(opened(third, sent), torch.arange(10))
    assert reader.statistics().processes[1].inline == {"not_backed": 1}
    third.close()


def test_a_reader_that_has_not_joined_gets_the_bytes_and_that_is_counted(ring: Ring, reader: Reader) -> None:
    tensor = ring.put(torch.arange(1000))
    sent: Handle | Inline | None = None
    for readers in (NOBODY, [reader.peer_id, NOBODY]):
        sent = ring.share(tensor, readers)
        assert isinstance(sent, Inline)
        assert torch.equal(opened(reader, sent), tensor)
    assert ring.statistics().inline == {"not_joined": 2}
    del tensor, sent  # an inline answer is the tensor's own memory
    assert blocks(ring) == 0


def test_a_reader_that_has_left_gets_the_bytes(ring: Ring) -> None:
    reader = join_as_if_another_process(ring.id)
    peer_id = reader.peer_id
    reader.close()
    assert isinstance(ring.share(ring.put(torch.arange(1000)), peer_id), Inline)
    dead = join_as_if_another_process(ring.id)
    peer_id = dead.peer_id
    die(dead)
    assert isinstance(ring.share(ring.put(torch.arange(1000)), peer_id), Inline)


def test_the_32nd_process_is_refused_at_the_join_and_served_inline(ring: Ring) -> None:
    readers = [join_as_if_another_process(ring.id) for _ in range(layout.INDICES - 1)]
    with pytest.raises(RingFullError, match="all 31 reader indices of the ring are taken; such a reader is served"):
        join_as_if_another_process(ring.id)
    tensor = ring.put(torch.arange(1000))
    assert isinstance(ring.share(tensor, NOBODY), Inline)
    handle = shared(ring, tensor, *readers)
    for reader in readers:
        assert torch.equal(opened(reader, handle), tensor)
    readers.pop().close()
    readers.append(join_as_if_another_process(ring.id))
    assert torch.equal(opened(readers[-1], shared(ring, tensor, readers[-1])), tensor)
    for reader in readers:
        reader.close()


def test_with_2048_handles_in_flight_the_next_goes_inline_and_is_counted(ring: Ring, reader: Reader) -> None:
    tensor = ring.put(torch.arange(1000))
    handles = [shared(ring, tensor, reader) for _ in range(layout.TICKETS)]
    sent: Handle | Inline | None = None
    for _ in range(3):
        sent = ring.share(tensor, reader)
        assert isinstance(sent, Inline)
        assert torch.equal(opened(reader, sent), tensor)
    assert ring.statistics().inline == {"no_ticket": 3}
    opened(reader, handles[1000])
    assert isinstance(ring.share(tensor, reader), Handle)
    del tensor, sent
    for handle in handles:
        ring.revoke(handle)
    wait_until(lambda: blocks(ring) == 1)  # the one that is neither opened nor revoked
    die(reader)
    ring.reap()
    wait_until(lambda: blocks(ring) == 0)


def test_a_revoked_handle_gives_the_block_back_and_opens_as_stale(ring: Ring, reader: Reader) -> None:
    handle = shared(ring, ring.put(torch.arange(1000)), reader)
    assert ring.revoke(handle)
    assert blocks(ring) == 0
    with pytest.raises(StaleHandleError):
        opened(reader, handle)
    ring.put(torch.zeros(1000, dtype=torch.int64))
    with pytest.raises(StaleHandleError):
        opened(reader, handle)
    assert not ring.revoke(handle)
    assert ring.statistics().writer.revoked == 1


def test_a_handle_can_be_revoked_for_some_of_its_readers(ring: Ring, reader: Reader) -> None:
    other = join_as_if_another_process(ring.id)
    handle = shared(ring, ring.put(torch.arange(1000)), reader, other)
    assert ring.revoke(handle, other)
    assert blocks(ring) == 1
    assert torch.equal(opened(reader, handle), torch.arange(1000))
    wait_until(lambda: blocks(ring) == 0)
    with pytest.raises(StaleHandleError):
        opened(other, handle)
    other.close()


def test_revoking_what_was_opened_inline_or_of_another_ring_answers_false(ring: Ring, reader: Reader) -> None:
    tensor = ring.put(torch.arange(1000))
    handle = shared(ring, tensor, reader)
    got = opened(reader, handle)
    ring.attachment.core.settle()
    assert not ring.revoke(handle)
    assert not ring.revoke(ring.share(tensor, NOBODY))
    with Ring.create(capacity="1MiB") as other:
        assert not other.revoke(shared(ring, tensor, reader))
    assert torch.equal(got, tensor)


def test_a_handle_opened_twice_is_two_tensors_over_one_lease(ring: Ring, reader: Reader) -> None:
    tensor = ring.put(torch.arange(1000))
    handle = shared(ring, tensor, reader)
    one, two = opened(reader, handle), opened(reader, handle)
    assert one.data_ptr() == two.data_ptr()
    del one
    assert torch.equal(two, tensor)
    assert ring.statistics().processes[1].leased_blocks == 1
    del two
    assert ring.statistics().processes[1].leased_blocks == 0


def test_a_handle_of_another_ring_is_refused(ring: Ring, reader: Reader) -> None:
    with Ring.create(capacity="1MiB") as other:
        handle = other.share(other.put(torch.arange(1000)), other)
        with pytest.raises(HandleError, match=f"expected a handle of ring {ring.id}, got one of {other.id}"):
            reader.open(bytes(handle))
        assert other.revoke(handle)


# -- close and statistics ---------------------------------------------------------------------------------------


def test_use_after_close_is_a_closed_error_and_tensors_stay_valid() -> None:
    ring = Ring.create(capacity="1MiB")
    reader = join_as_if_another_process(ring.id)
    tensor = ring.put(torch.arange(1000))
    handle = shared(ring, tensor, reader)
    ring_inline = ring.share(torch.arange(3), NOBODY)
    ring.close()
    ring.close()
    assert ring.closed
    for call in (
        lambda: ring.put(tensor),
        lambda: ring.put(torch.empty(0)),
        lambda: ring.empty((3,)),
        lambda: ring.empty((0,)),
        lambda: ring.share(tensor, reader),
        lambda: ring.share(torch.empty(0), reader),
        lambda: ring.open(handle),
        lambda: ring.open(bytes(handle)),
        lambda: ring.open(bytes(ring_inline)),
        lambda: ring.revoke(handle),
        lambda: ring.holds(tensor),
        ring.statistics,
        ring.reap,
        lambda: ring.peer_id,
        lambda: ring.attachment,
    ):
        with pytest.raises(ClosedError, match="was closed"):
            call()
    assert torch.equal(opened(reader, handle), tensor)
    reader.close()
    for call in (
        lambda: reader.open(handle),
        lambda: reader.share(tensor, NOBODY),
        reader.statistics,
        reader.reap,
    ):
        with pytest.raises(ClosedError, match="was closed"):
            call()
    assert len(ring.id) == 32
    assert "closed" in repr(ring)


def test_a_ring_is_left_when_its_last_tensor_dies_after_close() -> None:
    ring = Ring.create(capacity="1MiB")
    tensor = ring.put(torch.arange(1000))
    attached = weakref.ref(ring.attachment)
    ring.close()
    assert attached() is None
    assert torch.equal(tensor, torch.arange(1000))


def test_statistics_say_who_holds_and_moved_what(ring: Ring, reader: Reader) -> None:
    first, second = ring.put(bytes_tensor(1000)), ring.put(bytes_tensor(2000))
    got = opened(reader, shared(ring, first, reader))
    seen = ring.statistics()
    assert (seen.ring_id, seen.capacity_nbytes, seen.segments) == (ring.id, 4 * MIB, 1)
    assert (seen.blocks, seen.used_nbytes) == (2, 3000)
    writer, engine = seen.processes
    assert writer == seen.writer
    assert (writer.index, writer.role, writer.name, writer.alive) == (0, "writer", "camera", True)
    assert (engine.index, engine.role, engine.name, engine.alive) == (1, "reader", "engine", True)
    assert (writer.peer_id, engine.peer_id) == (ring.peer_id, reader.peer_id)
    assert (writer.written_nbytes, writer.writes, writer.shared) == (3000, 2, 1)
    assert (engine.opened, engine.opened_nbytes) == (1, 1000)
    assert (writer.leased_blocks, writer.leased_nbytes) == (2, 3000)
    assert (engine.leased_blocks, engine.leased_nbytes) == (1, 1000)
    assert 0 <= engine.oldest_lease_s <= writer.oldest_lease_s < 60
    assert 0 <= engine.joined_s <= writer.joined_s < 60
    assert (writer.reaps, writer.wait_s, writer.revoked, writer.inline) == (0, 0, 0, {})
    assert reader.statistics().blocks == 2
    del first, second, got
    wait_until(lambda: ring.statistics().blocks == 0)
    assert ring.statistics().holders() == "nobody holds any of it"


def test_reap_counts_the_dead_and_takes_them_out_of_the_table(ring: Ring) -> None:
    readers = [join_as_if_another_process(ring.id) for _ in range(3)]
    tensor = ring.put(torch.arange(1000))
    got = [opened(reader, shared(ring, tensor, reader)) for reader in readers]
    del tensor
    assert ring.reap() == 0
    die(readers[0])
    die(readers[2])
    assert [process.alive for process in ring.statistics().processes] == [True, False, True, False]
    assert ring.reap() == 2
    assert [process.index for process in ring.statistics().processes] == [0, 2]
    assert ring.reap() == 0
    assert torch.equal(got[1], torch.arange(1000))
    assert ring.statistics().writer.reaps == 2


def test_many_threads_put_share_open_and_drop_at_once(ring: Ring, reader: Reader) -> None:
    failures: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            for number in range(100):
                expected = torch.full((997,), seed * 1000 + number)
                backed = ring.put(expected)
                got = opened(reader, ring.share(backed, reader))
                del backed
                assert torch.equal(got, expected)
        except BaseException as error:  # noqa: BLE001 - re-raised by the main thread
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(50)
    assert failures == []
    wait_until(lambda: blocks(ring) == 0)
    assert ring.statistics().writer.writes == 800
