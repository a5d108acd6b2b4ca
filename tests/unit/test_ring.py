"""One process's view of a ring: room, policies, leases, handles, statistics, and what they cost."""

import gc
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from shmtransport import (
    Inline,
    Reader,
    Ring,
    RingFullError,
    WaitTimeoutError,
)
from tests.peers import is_waiting, join_as_if_another_process
from tests.support import wait_until
from tests.unit.peers import KIB, MIB, blocks, bytes_tensor, die, opened, shared

# -- put and empty ----------------------------------------------------------------------------------------------


def test_put_copies_once_and_answers_an_ordinary_tensor(ring: Ring) -> None:
    source = torch.randn(3, 100, 100)
    backed = ring.put(source)
    assert type(backed) is torch.Tensor
    assert torch.equal(backed, source)
    assert backed.data_ptr() != source.data_ptr()
    assert backed.is_contiguous()
    source.zero_()
    assert backed.abs().sum() > 0
    writer = ring.statistics().writer
    assert (writer.writes, writer.written_nbytes, writer.copied_nbytes) == (1, source.nbytes, source.nbytes)


def test_put_of_a_ring_backed_tensor_costs_nothing(ring: Ring) -> None:
    backed = ring.put(torch.randn(100, 100))
    assert ring.put(backed) is backed
    part = backed[10:20]
    assert ring.put(part) is part
    array = ring.put(np.arange(1000))
    assert ring.put(array) is array
    assert ring.statistics().writer.writes == 2
    assert blocks(ring) == 2


def test_put_of_a_tensor_from_another_ring_copies_it(ring: Ring) -> None:
    with Ring.create(capacity="1MiB") as other:
        foreign = other.put(torch.arange(1000))
        ours = ring.put(foreign)
        assert ours.data_ptr() != foreign.data_ptr()
        assert ring.holds(ours)
        assert not ring.holds(foreign)
        assert torch.equal(ours, foreign)


def test_blocks_of_64_kib_and_more_start_on_a_page_and_smaller_ones_on_a_cache_line(ring: Ring) -> None:
    held = [ring.put(bytes_tensor(nbytes)) for nbytes in (1, 65536, 63, 65537, 100, 65535, 131072)]
    for tensor in held:
        assert tensor.data_ptr() % (4096 if tensor.nbytes >= 65536 else 64) == 0


def test_live_blocks_never_overlap(ring: Ring) -> None:
    held = [ring.put(bytes_tensor(nbytes, nbytes % 251)) for nbytes in (1, 64, 65, 4096, 70000, 3, 100000, 65536) * 5]
    for tensor in held:
        assert bool((tensor == tensor.nbytes % 251).all())


def test_empty_then_fill_then_share_moves_no_byte_twice(ring: Ring, reader: Reader) -> None:
    made = ring.empty((100, 100), torch.float32)
    assert isinstance(made, torch.Tensor)
    torch.arange(10_000, dtype=torch.float32, out=made.view(-1))
    handle = shared(ring, made, reader)
    got = opened(reader, handle)
    writer = ring.statistics().writer
    assert (writer.writes, writer.written_nbytes, writer.copied_nbytes) == (1, made.nbytes, 0)
    assert ring.put(made) is made
    # One piece of memory, seen through two mappings: what is written at one end is read at the other.
    made[7, 7] = -1.0
    assert got[7, 7] == -1.0
    assert torch.equal(got, made)


def test_views_and_slices_are_shared_without_a_copy(ring: Ring, reader: Reader) -> None:
    batch = ring.put(torch.arange(6 * 32 * 32, dtype=torch.float32).view(6, 32, 32))
    whole = opened(reader, shared(ring, batch, reader))
    before = ring.statistics().writer.written_nbytes
    for view in (batch[2], batch[1:4], batch.view(-1)[5:77], batch[5, 31, 31:], batch.view(torch.int32)[3]):
        got = opened(reader, shared(ring, view, reader))
        assert torch.equal(got.view(view.dtype), view)
        offset = view.data_ptr() - batch.data_ptr()
        assert got.data_ptr() == whole.data_ptr() + offset
    assert ring.statistics().writer.written_nbytes == before == batch.nbytes
    assert ring.statistics().writer.copied_nbytes == before
    assert blocks(ring) == 1


def test_a_strided_view_of_a_block_is_copied_because_a_handle_has_no_strides(ring: Ring, reader: Reader) -> None:
    batch = ring.put(torch.arange(64).view(8, 8))
    got = opened(reader, shared(ring, batch.T, reader))
    assert torch.equal(got, batch.T)
    assert ring.statistics().writer.writes == 2


def test_a_tensor_that_reaches_beyond_its_block_is_no_view_of_it(ring: Ring) -> None:
    low = ring.put(bytes_tensor(64, 1))
    high = ring.put(bytes_tensor(64, 2))
    assert high.data_ptr() == low.data_ptr() + 64
    low_address = low.data_ptr()
    core = ring.attachment.core
    assert core.holds(low_address, 64)
    assert not core.holds(low_address, 65)
    assert not core.holds(low_address + 1, 64)
    assert not core.holds(low_address - 1, 1)
    assert core.holds(low_address + 64, 1)


def test_a_new_block_is_writable_in_place(ring: Ring, reader: Reader) -> None:
    backed = ring.put(torch.zeros(1000))
    got = opened(reader, shared(ring, backed, reader))
    backed += 3
    assert bool((got == 3).all())


# -- room -------------------------------------------------------------------------------------------------------


def test_the_ring_grows_by_whole_segments_up_to_the_capacity(ring: Ring) -> None:
    held = []
    for expected in (1, 1, 2, 2, 3, 3, 4, 4):
        held.append(ring.put(bytes_tensor(512 * KIB)))
        assert ring.statistics().segments == expected
        assert ring.holds(held[-1])
    assert ring.put(held[0]) is held[0]
    assert not ring.holds(ring.put(bytes_tensor(512 * KIB)))
    assert ring.statistics().segments == 4


def test_a_ring_that_needs_little_never_grows(ring: Ring) -> None:
    for _ in range(50):
        assert ring.holds(ring.put(bytes_tensor(900 * KIB)))
    assert ring.statistics().segments == 1


def test_a_tensor_larger_than_a_segment_gets_its_own(ring: Ring) -> None:
    large = ring.put(bytes_tensor(2 * MIB + 5, 7))
    assert ring.holds(large)
    assert ring.statistics().segments == 2
    assert ring.attachment.core.segment_nbytes(1) == 2 * MIB + 4096
    del large
    assert ring.holds(ring.put(bytes_tensor(2 * MIB)))
    assert ring.statistics().segments == 2


def test_a_tensor_of_exactly_the_capacity_fits_a_ring_of_one_segment() -> None:
    with Ring.create(capacity="2MiB", segment="2MiB", on_full="raise") as ring:
        for _ in range(3):
            whole = ring.put(bytes_tensor(2 * MIB, 9))
            assert ring.holds(whole)
            del whole


def test_one_long_lived_block_holds_up_nothing_but_itself(ring: Ring) -> None:
    held = [ring.put(bytes_tensor(512 * KIB, fill)) for fill in range(8)]
    keep = held[3]
    held.clear()
    gc.collect()
    fits = [ring.put(bytes_tensor(512 * KIB, 99)) for _ in range(7)]
    assert all(ring.holds(tensor) for tensor in fits)
    assert bool((keep == 3).all())


def test_room_freed_out_of_order_is_joined_again() -> None:
    with Ring.create(capacity="1MiB", segment="1MiB", on_full="raise") as ring:
        for order in ([0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2], [2, 0, 3, 1]):
            held: list[torch.Tensor | None] = [ring.put(bytes_tensor(256 * KIB)) for _ in range(4)]
            for number in order:
                held[number] = None
            assert ring.holds(ring.put(bytes_tensor(MIB)))


TOO_LARGE = r"expected room for 4194305 bytes, the capacity is 4194304: raise it above the largest tensor"


@pytest.mark.parametrize("on_full", ["raise", "block"])
def test_a_tensor_larger_than_the_capacity_raises_with_both_sizes_and_the_remedy_at_once(on_full: str) -> None:
    with (
        Ring.create(capacity="4MiB", segment="1MiB", on_full=on_full, timeout_s=1000) as ring,  # type: ignore[arg-type]
        pytest.raises(RingFullError, match=TOO_LARGE),
    ):
        ring.put(bytes_tensor(4 * MIB + 1))


def test_a_tensor_larger_than_the_capacity_goes_inline_where_that_is_the_policy(ring: Ring, reader: Reader) -> None:
    large = bytes_tensor(4 * MIB + 1, 3)
    assert ring.put(large) is large
    sent = ring.share(large, reader)
    assert isinstance(sent, Inline)
    assert torch.equal(opened(reader, sent), large)
    assert ring.statistics().inline["full"] >= 1
    made = ring.empty((4 * MIB + 1,), torch.uint8)
    assert isinstance(made, torch.Tensor)
    assert not ring.holds(made)
    assert blocks(ring) == 0


def full_message(nbytes: int) -> str:
    return (
        rf"expected room for {nbytes} bytes, 1048576 of 1048576 bytes \(capacity 1048576\) are in 2 live blocks, the "
        r"largest free extent has 0; .*"
        r"reader engine \(index 1, pid \d+, alive\) holds 524288 bytes in 1 blocks, the oldest for \d+\.\d s.*: "
        r"drop tensors, or raise capacity or entries"
    )


def test_a_full_ring_that_raises_says_who_holds_it() -> None:
    with Ring.create(capacity="1MiB", segment="1MiB", on_full="raise", name="camera") as ring:
        reader = join_as_if_another_process(ring.id, "engine")
        first, second = (ring.put(bytes_tensor(512 * KIB)) for _ in range(2))
        got = opened(reader, shared(ring, first, reader))
        with pytest.raises(RingFullError, match=full_message(512 * KIB)) as caught:
            ring.put(bytes_tensor(512 * KIB))
        assert "writer camera (index 0" in str(caught.value)
        del second
        assert ring.holds(ring.put(bytes_tensor(512 * KIB)))
        del got
        reader.close()


def test_a_full_ring_that_blocks_names_the_holders_when_the_deadline_has_passed() -> None:
    with Ring.create(capacity="1MiB", segment="1MiB", on_full="block", timeout_s=0.12) as ring:
        reader = join_as_if_another_process(ring.id, "engine")
        held = [ring.put(bytes_tensor(512 * KIB)) for _ in range(2)]
        got = opened(reader, shared(ring, held[0], reader))
        with pytest.raises(WaitTimeoutError, match=full_message(MIB) + "; waited 0.12 s for a release") as caught:
            ring.put(bytes_tensor(MIB))
        assert isinstance(caught.value, TimeoutError)
        assert ring.statistics().writer.wait_s == pytest.approx(0.12, abs=0.1)
        held.clear()
        del got
        assert ring.holds(ring.put(bytes_tensor(MIB)))
        reader.close()


def test_a_timeout_of_zero_does_not_wait() -> None:
    with Ring.create(capacity="1MiB", segment="1MiB", on_full="block", timeout_s=0) as ring:
        held = ring.put(bytes_tensor(MIB))
        with pytest.raises(WaitTimeoutError):
            ring.put(bytes_tensor(MIB))
        assert ring.holds(held)


def test_a_blocked_writer_goes_on_when_a_thread_drops_the_tensor() -> None:
    with Ring.create(capacity="1MiB", segment="1MiB", on_full="block", timeout_s=30) as ring:
        held = [ring.put(bytes_tensor(MIB))]
        got: list[torch.Tensor] = []
        writer = threading.Thread(target=lambda: got.append(ring.put(bytes_tensor(MIB, 5))))
        writer.start()
        try:
            wait_until(lambda: is_waiting(ring.id))
        finally:
            held.clear()
            writer.join(20)
        assert bool((got[0] == 5).all())
        got.clear()


def test_a_block_table_without_a_free_entry_is_a_full_ring() -> None:
    with Ring.create(capacity="1MiB", entries=3, on_full="raise") as ring:
        held = [ring.put(bytes_tensor(10)) for _ in range(3)]
        with pytest.raises(RingFullError, match=r"3 live blocks.* or raise capacity or entries"):
            ring.put(bytes_tensor(10))
        held.pop()
        assert ring.holds(ring.put(bytes_tensor(10)))
    with Ring.create(capacity="1MiB", entries=1) as ring:
        tensor = ring.put(bytes_tensor(10))
        assert not ring.holds(ring.put(bytes_tensor(10)))
        assert ring.statistics().segments == 1  # more memory would not have helped
        del tensor


def test_room_of_a_dead_reader_is_taken_back_before_anything_goes_inline() -> None:
    with Ring.create(capacity="1MiB", segment="1MiB", on_full="raise") as ring:
        reader = join_as_if_another_process(ring.id)
        tensor = ring.put(bytes_tensor(MIB))
        got = opened(reader, shared(ring, tensor, reader))
        del tensor
        die(reader)
        fresh = ring.put(bytes_tensor(MIB, 1))
        assert ring.holds(fresh)
        assert ring.statistics().writer.reaps == 1
        del got


def test_growing_and_mapping_ahead_leaves_nothing_to_do_for_put_and_open() -> None:
    with Ring.create(capacity="3MiB", segment="1MiB") as ring, join_as_if_another_process(ring.id) as reader:
        assert not ring.grow_ahead()  # a whole segment is free
        held = [ring.put(bytes_tensor(MIB // 2))]
        assert ring.grow_ahead()
        assert not ring.grow_ahead()
        assert ring.statistics().segments == 2
        reader.map_ahead()
        held += [ring.put(bytes_tensor(MIB, fill=7))]
        assert ring.statistics().segments == 2
        mapped = Path("/proc/self/maps").read_text().count(ring.id)
        assert opened(reader, shared(ring, held[1], reader))[-1] == 7
        assert Path("/proc/self/maps").read_text().count(ring.id) == mapped
        assert ring.grow_ahead()
        held += [ring.put(bytes_tensor(MIB))]
        assert not ring.grow_ahead()  # the capacity is spent
        del held


def test_the_writers_own_process_has_nothing_to_map_ahead() -> None:
    with Ring.create(capacity="2MiB", segment="1MiB") as ring, Reader.join(ring.id) as reader:
        held = ring.put(bytes_tensor(MIB))
        assert ring.grow_ahead()
        reader.map_ahead()
        del held
