"""What is stored into a control segment by whoever may is survived: see `overwritten_pages`."""

import os
import random
import signal
import time
from collections import Counter

import pytest
import torch

from shmtransport import Handle, Ring, StaleHandleError, layout
from shmtransport.config import BACKINGS, BackingName
from tests.hostile import overwritten_pages
from tests.hostile.conftest import Record
from tests.hostile.overwritten_pages import Attacker
from tests.hostile.trials import BreachError, Mark, Outcome, attempt, trial
from tests.peers import join_as_if_another_process


@pytest.mark.timeout(4 * 3600)
@pytest.mark.parametrize("backing", BACKINGS)
def test_no_overwritten_word_crashes_hangs_or_misleads_anybody(
    backing: BackingName, full: bool, rng: random.Random, record: Record
) -> None:
    """In full: on posix every word, on memfd those that somebody reads; with every byte value."""
    if full:
        attacks = overwritten_pages.all_attacks() if backing == "posix" else overwritten_pages.read_attacks()
    else:
        attacks = overwritten_pages.some_attacks(rng, words=60, values=3)
    outcome, breaches = overwritten_pages.campaign(attacks, backing)
    record(len(attacks), outcome)
    assert not breaches, "\n".join(f"attack {number}: {what}" for number, what in breaches)
    assert outcome["fine"] > len(attacks)


HEADER_SEGMENTS, SIZES, ENTRIES = 32, 2560, layout.ENTRIES_OFFSET // 8


@pytest.mark.parametrize("segments", [0, 2, 1025, (1 << 32) - 1])
def test_the_writer_grows_to_its_capacity_whatever_the_header_says_of_segments(segments: int) -> None:
    with Ring.create(capacity="256KiB", segment="64KiB", entries=8, on_full="raise") as ring:
        attacker = Attacker(ring.id, HEADER_SEGMENTS)
        held = []
        for _ in range(4):
            attacker.store(segments)
            held.append(ring.put(torch.zeros(65536, dtype=torch.uint8)))
            assert ring.holds(held[-1])
        attacker.leave()
        del held


@pytest.mark.parametrize("nbytes", [0, (1 << 64) - 1])
def test_the_writer_knows_its_segments_sizes_whatever_the_table_says(nbytes: int) -> None:
    with Ring.create(capacity="128KiB", segment="64KiB", entries=8, on_full="inline") as ring:
        attacker = Attacker(ring.id, SIZES)
        attacker.store(nbytes)
        held = [ring.put(torch.zeros(65536, dtype=torch.uint8)) for _ in range(3)]
        assert [ring.holds(tensor) for tensor in held] == [True, True, False]
        attacker.leave()
        del held


def test_a_block_that_the_writer_holds_is_not_reused_whatever_its_word_says() -> None:
    with Ring.create(capacity="64KiB", segment="64KiB", entries=8, on_full="inline") as ring:
        kept = ring.put(torch.ones(32768, dtype=torch.uint8))
        attacker = Attacker(ring.id, ENTRIES)
        attacker.store(0)
        others = [ring.put(torch.zeros(16384, dtype=torch.uint8)) for _ in range(4)]
        assert [ring.holds(tensor) for tensor in others] == [True, True, False, False]
        assert kept.sum() == 32768
        attacker.leave()
        del others, kept


def test_the_highest_generation_in_a_word_retires_no_entry_that_has_not_come_to_it() -> None:
    with Ring.create(capacity="64KiB", segment="64KiB", entries=1, on_full="inline") as ring:
        attacker = Attacker(ring.id, ENTRIES)
        for _ in range(3):
            tensor = ring.put(torch.zeros(100))
            assert ring.holds(tensor)
            del tensor
            attacker.store(((1 << 32) - 1) << 32)
        attacker.leave()


def test_the_writers_own_bit_in_a_word_keeps_no_block_that_it_does_not_hold() -> None:
    with Ring.create(capacity="64KiB", segment="64KiB", entries=1, on_full="inline") as ring:
        attacker = Attacker(ring.id, ENTRIES)
        tensor = ring.put(torch.zeros(100))
        word = attacker.load()
        del tensor
        attacker.store(word)
        assert ring.holds(ring.put(torch.zeros(100)))
        attacker.leave()


def test_a_forged_offset_shows_the_writer_its_own_block_all_the_same() -> None:
    with (
        Ring.create(capacity="64KiB", segment="64KiB", entries=8) as ring,
        join_as_if_another_process(ring.id) as reader,
    ):
        other, tensor = ring.put(torch.zeros(1024)), ring.put(torch.ones(1024))
        attacker = Attacker(ring.id, ENTRIES + 8 + 1)
        attacker.store(0)
        opened = reader.open(bytes(ring.share(tensor, reader.peer_id)))
        forwarded = reader.share(tensor, ring.peer_id)
        assert opened.sum() == 0, "the reader is misled within the segment"
        handle = Handle.from_bytes(bytes(ring.share(tensor, ring.peer_id)))
        assert ring.open(handle).sum() == 1024
        attacker.leave()
        del other, tensor, opened, forwarded


def test_the_writer_opens_nothing_that_it_has_taken_back_whatever_its_word_says() -> None:
    with Ring.create(capacity="64KiB", segment="64KiB", entries=1) as ring:
        tensor = ring.put(torch.ones(1024))
        handle = ring.share(tensor, ring.peer_id)
        assert isinstance(handle, Handle)
        attacker = Attacker(ring.id, ENTRIES)
        word = attacker.load()
        assert ring.revoke(handle)
        del tensor
        ring.attachment.core.room()  # takes it back
        attacker.store(word)
        with pytest.raises(StaleHandleError):
            ring.open(handle)
        attacker.leave()


def test_bits_of_readers_that_a_ticket_was_not_addressed_to_keep_it_open_for_nobody() -> None:
    with (
        Ring.create(capacity="64KiB", segment="64KiB", entries=8) as ring,
        join_as_if_another_process(ring.id) as reader,
        join_as_if_another_process(ring.id) as bystander,
    ):
        attacker = Attacker(ring.id, overwritten_pages.TICKETS_OFFSET // 8)
        handle = ring.share(ring.put(torch.ones(1024)), reader.peer_id)
        attacker.store(attacker.load() | 0xFFFF_FFFF)
        opened = reader.open(handle)
        assert ring.attachment.core.settle() == 0
        attacker.leave()
        assert bystander.statistics().blocks == 1
        del opened


def test_a_ticket_with_a_forged_sequence_is_settled_and_its_handle_opens_or_is_stale() -> None:
    with (
        Ring.create(capacity="64KiB", segment="64KiB", entries=8) as ring,
        join_as_if_another_process(ring.id) as reader,
    ):
        attacker = Attacker(ring.id, overwritten_pages.TICKETS_OFFSET // 8)
        tensor = ring.put(torch.ones(1024))
        handle = ring.share(tensor, reader.peer_id)
        attacker.store(attacker.load() + (7 << 32))
        assert ring.attachment.core.settle() == 0
        assert reader.open(handle).sum() == 1024, "its sender still holds the block"
        del tensor
        with pytest.raises(StaleHandleError):
            reader.open(handle)
        attacker.leave()


@pytest.mark.parametrize("count", [1, (1 << 32) - 1], ids=["true count", "forged count"])
@pytest.mark.parametrize("segment", [1, 1023, 1024, 5000, (1 << 32) - 1])
def test_a_block_in_a_segment_that_is_not_there_is_a_typed_error(segment: int, count: int) -> None:
    """Both words are forged: no count of segments, however large, makes one of the process's mappings of another."""

    def attacks(mark: Mark) -> Outcome:
        outcome: Outcome = Counter()
        with (
            Ring.create(capacity="64KiB", segment="64KiB", entries=8) as ring,
            join_as_if_another_process(ring.id) as reader,
        ):
            entry, header = Attacker(ring.id, ENTRIES + 4), Attacker(ring.id, HEADER_SEGMENTS)
            tensor = ring.put(torch.ones(1024))
            handle = ring.share(tensor, reader.peer_id)
            entry.store(segment)
            header.store(count)
            mark(segment)
            with attempt(outcome):
                reader.open(handle)
            entry.leave()
            header.leave()
            del tensor
        return outcome

    may_be_mapped = segment < min(count, layout.SEGMENTS)
    assert trial(attacks) == {"SegmentError" if may_be_mapped else "HandleError": 1}


def test_a_crash_a_hang_and_a_wrong_answer_are_each_told_with_the_attack_that_made_them() -> None:
    """The checker finds what it is for."""

    def crash(mark: Mark) -> Outcome:
        mark(3)
        os.kill(os.getpid(), signal.SIGTERM)
        return Counter()

    def hang(mark: Mark) -> Outcome:
        mark(4)
        time.sleep(60)
        return Counter()

    def mislead(mark: Mark) -> Outcome:
        mark(5)
        raise ValueError("wrong bytes")

    cases = ((crash, 20.0, "3: died of SIGTERM"), (hang, 0.3, "4: hung"), (mislead, 20.0, "5: .*wrong bytes"))
    for attack, deadline_s, told in cases:
        with pytest.raises(BreachError, match=f"(?s)attack {told}"):
            trial(attack, deadline_s=deadline_s)
