"""No handle that comes out of a socket shows what it may not: see `forged_handles`.

Single forged fields, shapes, ranks and versions, each with its own error, are in tests/property/test_handles.py.
"""

import random

import pytest
import torch

from shmtransport import Handle, HandleError, Ring, StaleHandleError
from tests.forging import forge
from tests.hostile import forged_handles
from tests.hostile.conftest import Record
from tests.hostile.trials import Outcome, trial
from tests.peers import join_as_if_another_process


def counted(record: Record, outcome: Outcome) -> Outcome:
    record(outcome.pop("attacks"), outcome)
    return outcome


@pytest.mark.timeout(1800)
def test_every_flipped_bit_of_a_handle_is_damage_or_names_a_living_block(
    full: bool, rng: random.Random, record: Record
) -> None:
    kinds = forged_handles.KINDS if full else rng.sample(forged_handles.KINDS, 48)
    outcome = trial(lambda mark: forged_handles.counted(*forged_handles.flip_every_bit(kinds, mark)))
    assert counted(record, outcome)["StaleHandleError"] > 0


@pytest.mark.timeout(1800)
def test_no_random_mutation_of_a_handle_shows_a_byte_outside_the_block_it_names(
    full: bool, rng: random.Random, record: Record
) -> None:
    attacks, outcome = forged_handles.campaign(rng.randrange(1 << 32), 1_000_000 if full else 200_000)
    record(attacks, outcome)
    assert outcome["fine"] > 0, "some forgeries name a living block"
    assert set(outcome) == {"fine", *(error.__name__ for error in forged_handles.REFUSED)}


@pytest.mark.timeout(1800)
def test_a_handle_is_stale_after_any_number_of_reuses_of_its_block(full: bool, record: Record) -> None:
    reuses = 1500 if full else 300
    outcome = trial(lambda mark: forged_handles.counted(*forged_handles.replay(reuses, mark)))
    assert outcome["attacks"] == reuses * (reuses - 1) // 2
    assert set(counted(record, outcome)) == {"StaleHandleError"}


def test_another_readers_handle_shows_its_block_and_leaves_the_other_readers_ticket_alone() -> None:
    with (
        Ring.create(capacity="64KiB", segment="64KiB", entries=8) as ring,
        join_as_if_another_process(ring.id) as addressed,
        join_as_if_another_process(ring.id) as thief,
    ):
        handle = ring.share(ring.put(torch.arange(64)), addressed.peer_id)
        stolen = thief.open(bytes(handle))
        assert ring.attachment.core.settle() == 1
        assert torch.equal(torch.as_tensor(addressed.open(bytes(handle))), torch.arange(64))
        assert ring.attachment.core.settle() == 0
        with pytest.raises(StaleHandleError):
            thief.open(forge(bytes(handle), generation=2))
        assert torch.equal(torch.as_tensor(stolen), torch.arange(64))
        del stolen


def test_a_handle_of_another_ring_opens_nothing_even_if_it_names_this_one() -> None:
    with (
        Ring.create(capacity="64KiB", segment="64KiB", entries=8) as ring,
        Ring.create(capacity="64KiB", segment="64KiB", entries=8) as other,
        join_as_if_another_process(ring.id) as reader,
        join_as_if_another_process(other.id) as stranger,
    ):
        theirs = other.share(other.put(torch.arange(64)), stranger.peer_id)
        assert isinstance(theirs, Handle)
        with pytest.raises(HandleError, match="expected a handle of ring"):
            reader.open(bytes(theirs))
        renamed = Handle(
            bytes.fromhex(ring.id), theirs.entry, theirs.generation, theirs.offset, theirs.kind, theirs.dtype,
            theirs.shape, theirs.sender, theirs.ticket, theirs.sequence,
        )  # fmt: skip
        with pytest.raises(StaleHandleError):
            reader.open(bytes(renamed))
        assert stranger.open(bytes(theirs)).shape == (64,)


def test_a_forged_acknowledgement_costs_a_message_and_shows_no_other_bytes() -> None:
    """The worst that a forger does to others: the receiver's own bit goes out of a ticket before its handle came."""
    with (
        Ring.create(capacity="64KiB", segment="64KiB", entries=1) as ring,
        join_as_if_another_process(ring.id) as reader,
    ):
        genuine = ring.share(ring.put(torch.arange(64)), reader.peer_id)
        with pytest.raises(StaleHandleError):
            reader.open(forge(bytes(genuine), generation=7))
        ring.attachment.core.settle()
        with pytest.raises(StaleHandleError):
            reader.open(bytes(genuine))
        assert ring.holds(ring.put(torch.arange(64))), "nothing is lost"
