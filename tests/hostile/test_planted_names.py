"""Whatever stands under the name of a segment, it is left alone or refused: see `planted_names`.

Owners, modes, sizes and headers of whole segments, each wrong by itself, are in tests/unit/test_segment.py.
"""

import faulthandler
import os
import secrets
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import get_args

import pytest
import torch

from shmtransport import (
    CorruptSegmentError,
    Reader,
    Ring,
    SegmentError,
    _core,
    attachment,
    layout,
    segment,
    sweep,
)
from shmtransport.config import OnFull
from tests.hostile.planted_names import (
    ATTACKER,
    IS_ROOT,
    PLANTS,
    VICTIM,
    become,
    path_of,
    plant,
    ring_works,
    weed,
)
from tests.hostile.trials import BreachError, Mark, Outcome, attempt, trial
from tests.peers import join_as_if_another_process
from tests.support import SHARED_MEMORY

Plant = Callable[[Path], None]
OWNERS = {"victim": VICTIM, "attacker": ATTACKER}


@pytest.fixture
def ring_id() -> Iterator[str]:
    """Nobody's; whatever is under it is gone at the end."""
    made = secrets.token_hex(16)
    yield made
    weed(made)


def by_the_victim(work: Callable[[], None]) -> None:
    """Runs ``work`` in a child that has no rights but the victim's; what it left of its own is then gone."""

    def attacks(mark: Mark) -> Outcome:
        become(VICTIM)
        mark(0)
        work()
        return Counter()

    before = set(os.listdir(os.fsencode(SHARED_MEMORY)))
    trial(attacks)
    left = set(os.listdir(os.fsencode(SHARED_MEMORY))) - before
    assert not [name for name in left if name.startswith(b"shmt-%d-" % VICTIM) and IS_ROOT]


@pytest.mark.parametrize("make", PLANTS)
@pytest.mark.parametrize("number", [0, 1, 7])
@pytest.mark.parametrize("owner", OWNERS.values(), ids=OWNERS)
def test_a_ring_is_created_and_swept_for_beside_anything_planted(
    ring_id: str, make: Plant, number: int, owner: int
) -> None:
    path = path_of(ring_id, number)
    plant(make, path, owner)

    def work() -> None:
        ring_works()
        swept = sweep()
        assert (ring_id in swept) <= (not os.path.lexists(path)), "what is told as swept is gone"
        if owner != VICTIM:
            assert os.path.lexists(path), "what is somebody else's stays"

    by_the_victim(work)


@pytest.mark.parametrize("make", PLANTS)
@pytest.mark.parametrize("mode", [0o777, 0o600, 0])
@pytest.mark.parametrize("owner", OWNERS.values(), ids=OWNERS)
def test_joining_anything_planted_is_refused_by_a_typed_error(ring_id: str, make: Plant, mode: int, owner: int) -> None:
    plant(make, path_of(ring_id), owner, mode)

    def work() -> None:
        with pytest.raises((SegmentError, CorruptSegmentError)):
            Reader.join(ring_id)

    by_the_victim(work)


@pytest.mark.parametrize(
    "name", [b"shmt-%d-\xff\xfe-0", b"shmt-%d--0", b"shmt-%d-x-0", b"shmt-%d-" + b"a" * 200 + b"-0", b"shmt-%d-%%s-0\n"]
)
def test_a_name_that_is_none_of_ours_is_left_alone(name: bytes) -> None:
    path = os.fsencode(SHARED_MEMORY) + b"/" + name % VICTIM
    with open(path, "wb"):
        pass
    if IS_ROOT:
        os.chown(path, VICTIM, VICTIM)
    try:
        by_the_victim(ring_works)
        assert os.path.exists(path)
    finally:
        os.unlink(path)


@pytest.mark.parametrize("on_full", get_args(OnFull))
def test_a_ring_whose_next_segments_name_is_taken_stays_as_large_as_it_is(on_full: OnFull) -> None:
    """Another user reads the ring's id from the listing and is quicker than the writer."""

    def work() -> None:
        with Ring.create(
            capacity="256KiB",
            segment="64KiB",
            entries=8,
            on_full=on_full,
            timeout_s=0.1,
            copy_kernel="libc",
            backing="posix",
        ) as ring:
            taken = path_of(ring.id, 2)
            attacker = os.fork()
            if attacker == 0:
                os._exit(os.spawnlp(os.P_WAIT, "touch", "touch", str(taken)))
            assert os.waitpid(attacker, 0)[1] == 0
            held = [ring.put(torch.zeros(65536, dtype=torch.uint8))]
            outcome: Outcome = Counter()
            with attempt(outcome):
                assert not ring.holds(ring.put(torch.zeros(65536, dtype=torch.uint8)))
            assert outcome == {{"inline": "fine", "raise": "RingFullError", "block": "WaitTimeoutError"}[on_full]: 1}
            assert not ring.grow_ahead()
            taken.unlink()
            held.append(ring.put(torch.zeros(65536, dtype=torch.uint8)))
            assert ring.holds(held[1])
            held.clear()

    by_the_victim(work)


def test_a_ring_whose_first_segments_name_is_taken_is_not_created_and_leaves_no_name(
    monkeypatch: pytest.MonkeyPatch, ring_id: str
) -> None:
    monkeypatch.setattr(os, "urandom", lambda count: bytes.fromhex(ring_id)[:count])
    monkeypatch.setattr(segment, "sweep", list)
    taken = path_of(ring_id, 1, os.geteuid())
    taken.touch(0o600)
    with pytest.raises(SegmentError, match="taken the name of its first segment"):
        Ring.create(capacity="64KiB", segment="64KiB", backing="posix")
    assert not path_of(ring_id, 0, os.geteuid()).exists()


def header_of(ring: Ring, **fields: int) -> bytes:
    """A living ring's header with other sizes."""
    header = bytearray(path_of(ring.id, 0, os.geteuid()).read_bytes()[: layout.PAGE_NBYTES])
    struct.pack_into("<I", header, 60, fields["entries"])
    struct.pack_into("<Q", header, 80, fields["control_nbytes"])
    return bytes(header)


def test_a_control_segment_that_claims_pages_which_are_not_there_is_refused_before_they_are_made(ring_id: str) -> None:
    entries = 1 << 26  # a table of 4 GiB
    with Ring.create(capacity="64KiB", segment="64KiB", entries=4, backing="posix") as ring:
        path = path_of(ring_id, 0, os.geteuid())
        with path.open("wb") as file:
            file.write(header_of(ring, entries=entries, control_nbytes=layout.control_nbytes(entries)))
            file.truncate(layout.control_nbytes(entries))
        path.chmod(0o600)
        with pytest.raises(CorruptSegmentError):
            Reader.join(ring_id)
        assert path.stat().st_blocks * 512 < 1 << 20


def test_a_data_segment_that_claims_pages_which_are_not_there_is_refused_before_they_are_made() -> None:
    with Ring.create(capacity="64KiB", segment="64KiB", entries=4, backing="posix") as ring:
        path = path_of(ring.id, 1, os.geteuid())
        with path.open("r+b") as file:
            file.truncate(0)
            file.truncate(65536)
        with pytest.raises(SegmentError, match="served inline from now on"):
            join_as_if_another_process(ring.id)
        assert path.stat().st_blocks == 0


def hide(path: Path) -> None:
    path.rename(f"{path}x")


def empty(path: Path) -> None:
    os.truncate(path, 0)


def test_another_user_joins_by_no_way() -> None:
    with Ring.create(capacity="64KiB", segment="64KiB", entries=4, backing="posix") as ring:
        if not IS_ROOT:
            with pytest.raises(PermissionError):
                os.setuid(os.geteuid() + 1)
            return
        kept = ring.put(torch.arange(100))
        owner, ring_id = os.geteuid(), ring.id
        posix = segment.BY_NAME["posix"]
        names = [posix.prefix(ring_id), f"shmt-{ATTACKER}-{ring_id}-"]
        with posix.opened(ring_id, 0) as control:

            def attacks(mark: Mark) -> Outcome:
                outcome: Outcome = Counter()
                become(ATTACKER)
                mark(0)
                with attempt(outcome):  # by its own names: there are none
                    Reader.join(ring_id)
                mark(1)
                for path in (path_of(ring_id, number, owner) for number in (0, 1)):
                    for way in (os.O_RDONLY, os.O_RDWR, os.O_WRONLY | os.O_TRUNC):
                        with pytest.raises(PermissionError):
                            os.open(path, way)
                    for change in (os.unlink, hide, empty):
                        with pytest.raises(PermissionError):
                            change(path)
                mark(2)
                with attempt(outcome), pytest.MonkeyPatch.context() as patch:  # by the owner's
                    patch.setattr(type(posix), "prefix", lambda *_: names[0])
                    Reader.join(ring_id)
                mark(3)
                with attempt(outcome):  # by a descriptor that somebody let go
                    _core.Attachment.join(control, names[0], attachment.new_peer_id(), "", os.getpid(), 1)
                return outcome

            assert trial(attacks) == {"SegmentNotFoundError": 1, "SegmentError": 2}
        assert [process.role for process in ring.statistics().processes] == ["writer"]
        assert torch.equal(kept, torch.arange(100))
        del kept


def test_a_segment_that_a_trusted_peer_truncates_kills_who_reads_it() -> None:
    """A known limit of names in /dev/shm, which whoever may join may also truncate: no error can come out of a load."""

    def attacks(mark: Mark) -> Outcome:
        with Ring.create(capacity="64KiB", segment="64KiB", entries=4, backing="posix") as ring:
            tensor = ring.put(torch.arange(1000))
            mark(0)
            faulthandler.disable()  # the stack is no news
            os.truncate(path_of(ring.id, 1, os.geteuid()), 0)
            tensor.sum()
        return Counter()

    with pytest.raises(BreachError, match="died of SIGBUS"):
        trial(attacks)
