"""The allocator, seen through the core: any order of taking and giving back, many small blocks and few large."""

import threading
from typing import Final, Self, TypeAlias

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shmtransport import Handle, Inline, Reader, Ring, RingFullError
from tests.peers import join_as_if_another_process
from tests.property.oracle import WRITER, Block, Oracle

SEGMENT: Final = 512 << 10
CAPACITY: Final = 4 * SEGMENT
ENTRIES: Final = 64

SIZES: Final = st.one_of(
    st.integers(1, 2048),
    st.integers(60_000, 140_000),
    st.sampled_from([63, 64, 65, 4095, 4096, 4097, 65535, 65536, 65537]),
    st.sampled_from([SEGMENT // 2, SEGMENT - 64, SEGMENT, SEGMENT + 1, 2 * SEGMENT, CAPACITY, CAPACITY + 1]),
)

# A size to put, or which of the living blocks to give back, counted from the oldest.
Steps: TypeAlias = list[tuple[int, bool]]
STEPS: Final = st.lists(
    st.tuples(SIZES, st.just(True)) | st.tuples(st.integers(0, ENTRIES), st.just(False)), max_size=120
)


class Allocator:
    """A ring without readers and its oracle: only the allocator decides."""

    def __init__(self) -> None:
        self.ring = Ring.create(capacity=CAPACITY, segment=SEGMENT, entries=ENTRIES, on_full="raise")
        self.oracle = Oracle(capacity_nbytes=CAPACITY, segment_nbytes=SEGMENT, entries=ENTRIES, anonymous=False)
        self.held: list[tuple[Block, torch.Tensor]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.held.clear()
        self.ring.close()

    def put(self, nbytes: int) -> bool:
        """A block of ``nbytes``, checked by the oracle; False if there is no room, and the oracle agrees."""
        fits = self.oracle.can_put(nbytes)
        try:
            tensor = self.ring.empty(nbytes, torch.uint8)
        except RingFullError:
            assert not fits, f"{nbytes} bytes have room"
            return False
        assert fits, f"{nbytes} bytes have no room"
        assert isinstance(tensor, torch.Tensor)
        core = self.ring.attachment.core
        (new,) = [block for block in core.blocks() if block[0] not in self.oracle.live]
        entry, generation, mask, segment, offset, stored_nbytes, _ = new
        assert (mask, stored_nbytes) == (1, nbytes)
        block = Block(entry, generation, segment, offset, nbytes)
        self.oracle.put(block)
        self.held.append((block, tensor))
        return True

    def drop(self, which: int) -> None:
        block, _ = self.held.pop(which % len(self.held))
        self.oracle.drop(WRITER, block)

    def agrees(self) -> None:
        used, total, _, live = self.ring.attachment.core.room()
        assert (used, total, live) == (self.oracle.used_nbytes(), sum(self.oracle.segments), len(self.oracle.live))


@settings(max_examples=200)
@given(steps=STEPS)
def test_blocks_are_apart_aligned_and_inside_their_segment_and_all_comes_back(steps: Steps) -> None:
    with Allocator() as allocator:
        for number, puts in steps:
            if puts:
                allocator.put(number)
            elif allocator.held:
                allocator.drop(number)
            allocator.agrees()
        while allocator.held:
            allocator.drop(0)
        used, total, largest, live = allocator.ring.attachment.core.room()
        assert (used, live) == (0, 0)
        assert largest == max(allocator.oracle.segments)
        assert total == sum(allocator.oracle.segments)
        for nbytes in allocator.oracle.segments:
            assert allocator.put(nbytes), "freed neighbours join: each segment is whole again"


@settings(max_examples=30)
@given(
    before=st.lists(st.integers(1, 60_000), max_size=20),
    long_lived_nbytes=st.integers(1, 100_000),
    later=st.lists(st.integers(1, SEGMENT), min_size=40, max_size=80),
)
def test_one_long_lived_block_holds_up_nothing_but_itself(
    before: list[int], long_lived_nbytes: int, later: list[int]
) -> None:
    with Allocator() as allocator:
        for nbytes in before:
            allocator.put(nbytes)
        assert allocator.put(long_lived_nbytes)
        long_lived = allocator.held[-1][1].fill_(171)
        del allocator.held[-1]
        while allocator.held:
            allocator.drop(0)
        for nbytes in later:  # many times the capacity goes past it
            assert allocator.put(nbytes), "one block and the rest free: there is room"
            allocator.held[-1][1].zero_()
            allocator.drop(0)
        assert bool((long_lived == 171).all())
        assert allocator.ring.attachment.core.room()[3] == 1


def entries_full_of_blocks_of(ring: Ring, reader: Reader) -> list[object]:
    """Tensors of ``reader`` over one small block in every entry of the ring's table."""
    kept: list[object] = []
    for _ in range(ring.attachment.entries):
        kept.append(reader.open(ring.share(ring.empty(64, torch.uint8), reader)))
        assert ring.attachment.core.settle() == 0
    return kept


def test_a_ring_whose_entries_the_dead_held_still_grows_up_to_its_capacity() -> None:
    with Ring.create(capacity="1MiB", segment="256KiB", entries=4, on_full="raise") as ring:
        reader = join_as_if_another_process(ring.id)
        kept = entries_full_of_blocks_of(ring, reader)
        reader.attachment.core.abandon()
        assert ring.holds(ring.empty(512 << 10, torch.uint8))
        del kept


def test_a_writer_that_waited_for_an_entry_still_grows_up_to_its_capacity() -> None:
    with Ring.create(capacity="1MiB", segment="256KiB", entries=4, on_full="block", timeout_s=5) as ring:
        reader = join_as_if_another_process(ring.id)
        kept = entries_full_of_blocks_of(ring, reader)
        release = threading.Timer(0.05, kept.clear)
        release.start()
        try:
            assert ring.holds(ring.empty(512 << 10, torch.uint8))
        finally:
            release.join()


def test_one_look_finds_every_block_that_is_free_wherever_the_last_look_ended() -> None:
    with Ring.create(capacity="64KiB", segment="64KiB", entries=8) as ring:
        room = ring.attachment.core.room
        held = [ring.empty(64, torch.uint8) for _ in range(2)]
        assert room()[3] == 2
        kept = ring.empty(64, torch.uint8)
        assert room()[3] == 3
        held.clear()
        assert room()[3] == 1
        del kept


@settings(max_examples=150)
@given(steps=st.lists(st.just(set[int]()) | st.sets(st.integers(0, 5), max_size=4), min_size=20, max_size=60))
def test_one_look_finds_every_ticket_that_is_settled_wherever_the_last_look_ended(steps: list[set[int]]) -> None:
    """A step opens those handles on their way, counted from the oldest; without any it sends one more."""
    with Ring.create(capacity="64KiB", segment="64KiB", entries=8) as ring:
        reader = join_as_if_another_process(ring.id)
        tensor = ring.empty(64, torch.uint8)
        under_way: list[Handle | Inline] = []
        for step in steps:
            opens = {position % len(under_way) for position in step} if under_way else set[int]()
            for position in opens:
                reader.open(under_way[position])
            under_way = [sent for position, sent in enumerate(under_way) if position not in opens]
            if not opens:
                under_way.append(ring.share(tensor, reader))
            assert ring.attachment.core.settle() == len(under_way)
