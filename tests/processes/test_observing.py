"""Rings seen from outside, by a process that has no part in them."""

import os
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from shmtransport import LayoutMismatchError, Reader, Ring, SegmentNotFoundError, observing, sweep
from shmtransport.observing import Found, State
from shmtransport.segment.room import SHM_DIRECTORY
from tests.processes.children import Child, child, pixels
from tests.support import BACKING, wait_until

MIB = 1 << 20
NO_RING = "00" * 15 + "aa"
VERSION_OFFSET = 8
"""Of the layout's version in the control segment: docs/protocol.md."""


@pytest.fixture
def writer() -> Iterator[Child]:
    """Has a ring, ``ring``, with one block of a MiB."""
    with child("quick") as process:
        process.run("ring = Ring.create('64MiB', segment='16MiB', name='painter')\nheld = ring.put(pixels(1))")
        yield process


@pytest.fixture
def planted() -> Iterator[Path]:
    path = SHM_DIRECTORY / f"shmt-{os.geteuid()}-{NO_RING}-0"
    yield path
    path.unlink(missing_ok=True)


def found(ring_id: str) -> Found:
    return next(each for each in observing.rings() if each.ring_id == ring_id)


def state_of(ring_id: str) -> State | None:
    return next((each.state for each in observing.rings() if each.ring_id == ring_id), None)


def test_a_look_says_what_the_writer_says(writer: Child) -> None:
    ring_id = writer.ask("ring.id")
    with Reader.join(ring_id, name="reader") as reader:
        wire = writer.ask("bytes(ring.share(held, peer))", peer=reader.peer_id)
        opened = reader.open(wire)
        wait_until(lambda: observing.look(ring_id).processes[1].leased_blocks == 1)
        seen, said = observing.look(ring_id), writer.ask("ring.statistics()")
        assert opened.nbytes == MIB
    with_ages = ("age_s", "processes")
    assert {name: getattr(seen, name) for name in seen.__struct_fields__ if name not in with_ages} == {
        name: getattr(said, name) for name in said.__struct_fields__ if name not in with_ages
    }
    assert [(each.role, each.name, each.pid, each.alive) for each in seen.processes] == [
        ("writer", "painter", writer.pid, True),
        ("reader", "reader", os.getpid(), True),
    ]
    assert [each.leased_nbytes for each in seen.processes] == [each.leased_nbytes for each in said.processes]
    assert (seen.backing, seen.capacity_nbytes, seen.reserved_nbytes) == (BACKING, 64 * MIB, 16 * MIB)
    assert (seen.used_nbytes, seen.largest_free_nbytes) == (MIB, 15 * MIB)
    assert 0 < seen.writer.copy_s < 10


def test_handles_that_were_not_opened_are_seen_by_everybody(writer: Child) -> None:
    ring_id = writer.ask("ring.id")
    with Reader.join(ring_id) as reader:
        assert observing.look(ring_id).processes[reader.attachment.index].unopened == 0
        wire = writer.ask("bytes(ring.share(held, peer))", peer=reader.peer_id)
        assert observing.look(ring_id).processes[reader.attachment.index].unopened == 1
        del wire


def test_a_look_leaves_no_trace(writer: Child) -> None:
    ring_id = writer.ask("ring.id")
    before = writer.ask("ring.statistics().processes")
    for _ in range(100):
        observing.look(ring_id)
    after = writer.ask("ring.statistics().processes")
    assert [(each.index, each.peer_id) for each in after] == [(each.index, each.peer_id) for each in before]
    writer.run("ring.close(); del held, ring")
    wait_until(lambda: state_of(ring_id) is None)


def test_the_largest_gap_is_what_a_put_finds_room_for() -> None:
    with Ring.create("8MiB", segment="8MiB", on_full="raise") as ring:
        blocks = [ring.put(pixels(seed)) for seed in range(8)]
        assert observing.look(ring.id).largest_free_nbytes == 0
        del blocks[3:5]
        del blocks[0]
        assert observing.look(ring.id).largest_free_nbytes == 2 * MIB
        blocks.append(ring.put(torch.zeros(2 * MIB, dtype=torch.uint8)))
        assert observing.look(ring.id).largest_free_nbytes == MIB
        del blocks


def test_of_a_killed_writer_it_is_said_who_still_reads(writer: Child) -> None:
    ring_id = writer.ask("ring.id")
    assert state_of(ring_id) == "alive"
    with Reader.join(ring_id, name="reader"):
        writer.kill()
        if BACKING == "posix":  # of an anonymous ring only the socket is there, and nobody answers
            wait_until(lambda: state_of(ring_id) == "orphaned")
            seen = found(ring_id).statistics
            assert seen is not None
            assert [(each.name, each.alive) for each in seen.processes] == [("painter", False), ("reader", True)]
    wait_until(lambda: ring_id in sweep() or state_of(ring_id) is None)


def test_what_nobody_holds_is_an_orphan_until_it_is_swept(writer: Child) -> None:
    ring_id = writer.ask("ring.id")
    writer.kill()
    wait_until(lambda: state_of(ring_id) == "orphan")
    assert sweep() == [ring_id]
    assert state_of(ring_id) is None


def test_a_writer_that_is_stopped_is_looked_at_all_the_same(writer: Child) -> None:
    ring_id = writer.ask("ring.id")
    with writer.stopped():
        assert state_of(ring_id) == ("alive" if BACKING == "posix" else "silent")
    assert state_of(ring_id) == "alive"


def test_only_rings_that_are_wanted_are_looked_at(writer: Child) -> None:
    ring_id = writer.ask("ring.id")
    asked = []

    def wanted(each: str) -> bool:
        asked.append(each)
        return False

    assert (observing.rings(wanted), asked) == ([], [ring_id])
    assert [each.ring_id for each in observing.rings(lambda each: each == ring_id)] == [ring_id]


def test_no_descriptor_to_look_with_is_an_error_and_no_state(writer: Child) -> None:
    with child("quick") as poor:
        poor.run("import resource, shmtransport.observing")
        assert poor.ask("[each.state for each in shmtransport.observing.rings()]") == ["alive"]
        poor.run("resource.setrlimit(resource.RLIMIT_NOFILE, (3, 4096))")
        with pytest.raises(AssertionError, match="Too many open files"):
            poor.ask("shmtransport.observing.rings()")
        poor.run("resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 4096))")
    assert state_of(writer.ask("ring.id")) == "alive"


def test_a_ring_that_never_was_is_an_error() -> None:
    with pytest.raises(SegmentNotFoundError):
        observing.look(NO_RING)


@pytest.mark.posix
def test_another_layout_is_named_with_both_versions(writer: Child) -> None:
    ring_id = writer.ask("ring.id")
    path = SHM_DIRECTORY / f"shmt-{os.geteuid()}-{ring_id}-0"
    with path.open("r+b") as control:
        control.seek(VERSION_OFFSET)
        control.write(struct.pack("<I", 7))
        control.flush()
        with pytest.raises(LayoutMismatchError, match=r"expected layout 1, .* found layout 7"):
            observing.look(ring_id)
        assert (found(ring_id).state, found(ring_id).statistics) == ("foreign", None)
        control.seek(VERSION_OFFSET)
        control.write(struct.pack("<I", 0))
        control.flush()
        assert state_of(ring_id) == "unready", "the writer lives, and has not published it"


@pytest.mark.posix
@pytest.mark.parametrize(
    ("content", "state"),
    [(b"", "orphan"), (b"\1" * 100, "damaged"), (b"\1" * 8192, "damaged")],
    ids=["empty", "short", "no ring"],
)
def test_what_is_no_ring_is_a_row(planted: Path, content: bytes, state: State) -> None:
    planted.write_bytes(content)
    assert state_of(NO_RING) == state
    assert found(NO_RING).detail


@pytest.mark.posix
def test_a_folder_and_a_link_of_that_name_are_rows(planted: Path, tmp_path: Path) -> None:
    planted.mkdir()
    assert (state_of(NO_RING), "somebody else has taken that name" in found(NO_RING).detail) == ("damaged", True)
    planted.rmdir()
    planted.symlink_to(tmp_path / "elsewhere")
    assert state_of(NO_RING) == "damaged"


@pytest.mark.posix
def test_a_control_segment_that_shrinks_is_no_sigbus(writer: Child) -> None:
    ring_id = writer.ask("ring.id")
    path = SHM_DIRECTORY / f"shmt-{os.geteuid()}-{ring_id}-0"
    size = path.stat().st_size
    with child("quick") as attacker:
        attacker.start(
            "run",
            "for _ in range(3000): os.truncate(path, 0); os.truncate(path, size)",
            path=str(path),
            size=size,
        )
        states = {found(ring_id).state for _ in range(300)}
        attacker.answer()
    assert states <= {"unready", "damaged", "alive", "orphan"}
    writer.kill()
    wait_until(lambda: ring_id in sweep())


@pytest.mark.posix
def test_other_users_rings_are_denied_rows() -> None:
    """Another user's place is taken by a child that gives up being root."""
    if os.geteuid() != 0:
        pytest.fail("needs root, to be two users")
    with Ring.create("1MiB", segment="1MiB") as ring, child("spawn") as other:
        other.run("import os\nfrom shmtransport import observing\nos.setresuid(65534, 65534, 65534)")
        rows = other.ask("[(f.uid, f.state, f.statistics) for f in observing.rings() if f.ring_id == i]", i=ring.id)
        assert rows == [(0, "denied", None)]
        with pytest.raises(AssertionError, match="SegmentNotFoundError"):
            other.ask("observing.look(ring_id)", ring_id=ring.id)


def test_many_look_while_a_ring_comes_and_goes() -> None:
    """Whatever they see is an answer."""
    ended = threading.Event()
    states: set[State] = set()
    errors: list[BaseException] = []

    def watch() -> None:
        try:
            while not ended.is_set():
                states.update(each.state for each in observing.rings())
        except BaseException as error:  # noqa: BLE001
            errors.append(error)

    watchers = [threading.Thread(target=watch) for _ in range(2)]
    for each in watchers:
        each.start()
    try:
        for _ in range(50):
            with Ring.create("1MiB", segment="1MiB") as ring:
                ring.put(torch.zeros(1000, dtype=torch.uint8))
    finally:
        ended.set()
        for each in watchers:
            each.join()
    assert not errors
    assert states <= {"alive", "unready", "gone", "orphan", "orphaned"}
