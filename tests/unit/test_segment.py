"""Names in /dev/shm: what is an orphan, what is not, and what is refused without being touched."""

import ctypes
import fcntl
import mmap
import os
import re
import secrets
import struct
from collections.abc import Iterator
from multiprocessing import resource_tracker, shared_memory
from pathlib import Path

import pytest
import torch

from shmtransport import (
    CorruptSegmentError,
    Handle,
    LayoutMismatchError,
    OutOfSharedMemoryError,
    Reader,
    Ring,
    SegmentError,
    SegmentNotFoundError,
    layout,
    segment,
    sweep,
)
from tests.peers import join_as_if_another_process
from tests.support import SHARED_MEMORY, segment_names
from tests.unit.peers import blocks, opened, shared

pytestmark = pytest.mark.posix


@pytest.fixture
def ring() -> Iterator[Ring]:
    with Ring.create(capacity="4MiB", segment="1MiB", entries=64) as ring:
        yield ring


@pytest.fixture
def stray_id() -> Iterator[str]:
    """A ring id under which the test makes names by hand; they are removed whatever happens."""
    ring_id = secrets.token_hex(16)
    yield ring_id
    for path in SHARED_MEMORY.glob(f"shmt-*-{ring_id}-*"):
        path.unlink()


def path_of(ring_id: str, number: int = 0) -> Path:
    return SHARED_MEMORY / f"{segment.BY_NAME['posix'].prefix(ring_id)}{number}"


def make(ring_id: str, number: int, content: bytes = b"", mode: int = 0o600) -> Path:
    path = path_of(ring_id, number)
    path.write_bytes(content)
    path.chmod(mode)
    return path


def control_of(ring: Ring) -> bytearray:
    """A copy of a living ring's control segment."""
    return bytearray(path_of(ring.id).read_bytes())


def test_names_say_whose_they_are_and_are_closed_to_others(ring: Ring) -> None:
    names = sorted(name for name in segment_names() if ring.id in name)
    assert names == [f"shmt-{os.geteuid()}-{ring.id}-{number}" for number in (0, 1)]
    for name in names:
        facts = (SHARED_MEMORY / name).stat()
        assert facts.st_mode & 0o7777 == 0o600
        assert facts.st_uid == os.geteuid()


def test_segments_have_all_their_pages_from_the_start(ring: Ring) -> None:
    for number in (0, 1):
        facts = path_of(ring.id, number).stat()
        assert facts.st_blocks * 512 >= facts.st_size > 0
    assert path_of(ring.id).stat().st_size == layout.control_nbytes(64)
    assert path_of(ring.id, 1).stat().st_size == 1 << 20


def test_two_rings_never_share_a_name() -> None:
    with Ring.create(capacity="1MiB") as one, Ring.create(capacity="1MiB") as two:
        assert one.id != two.id
        assert re.fullmatch("[0-9a-f]{32}", one.id)


def test_closing_the_ring_removes_all_its_names() -> None:
    ring = Ring.create(capacity="4MiB", segment="1MiB")
    held = [ring.put(torch.zeros(1 << 18)) for _ in range(3)]
    assert len([name for name in segment_names() if ring.id in name]) >= 4
    ring.close()
    assert any(ring.id in name for name in segment_names())  # tensors are still there
    held.clear()
    assert not any(ring.id in name for name in segment_names())


def test_names_stay_as_long_as_a_reader_needs_them(ring: Ring) -> None:
    reader = join_as_if_another_process(ring.id)
    tensor = opened(reader, shared(ring, ring.put(torch.arange(1000)), reader))
    ring_id = ring.id
    ring.close()
    assert any(ring_id in name for name in segment_names())
    reader.close()
    assert torch.equal(tensor, torch.arange(1000))
    del tensor
    assert not any(ring_id in name for name in segment_names())


def test_a_sweep_leaves_living_rings_alone(ring: Ring) -> None:
    before = {name for name in segment_names() if ring.id in name}
    assert ring.id not in sweep()
    assert {name for name in segment_names() if ring.id in name} == before
    tensor = ring.put(torch.arange(1000))
    assert torch.equal(tensor, torch.arange(1000))


def test_a_sweep_removes_a_ring_whose_processes_are_all_dead(ring: Ring) -> None:
    reader = join_as_if_another_process(ring.id)
    ring.attachment.core.abandon()
    assert ring.id not in sweep()  # a reader lives
    reader.attachment.core.abandon()
    assert ring.id in sweep()
    assert not any(ring.id in name for name in segment_names())
    assert ring.id not in sweep()


def test_creating_a_ring_sweeps_first(ring: Ring) -> None:
    ring.attachment.core.abandon()
    with Ring.create(capacity="1MiB"):
        assert not any(ring.id in name for name in segment_names())


def test_a_segment_without_a_control_name_is_an_orphan(stray_id: str) -> None:
    make(stray_id, 1, bytes(4096))
    make(stray_id, 17, bytes(4096))
    assert stray_id in sweep()
    assert not list(SHARED_MEMORY.glob(f"*{stray_id}*"))


@pytest.mark.parametrize("content", [b"", bytes(100), bytes(4096), bytes(layout.control_nbytes(64))], ids=len)
def test_a_half_made_control_segment_is_refused_to_readers_and_swept(stray_id: str, content: bytes) -> None:
    make(stray_id, 0, content)
    with pytest.raises((SegmentNotFoundError, CorruptSegmentError)):
        Reader.join(stray_id)
    make(stray_id, 1, bytes(4096))
    assert stray_id in sweep()
    assert not list(SHARED_MEMORY.glob(f"*{stray_id}*"))


def test_a_control_segment_that_somebody_just_creates_is_not_swept(stray_id: str) -> None:
    path = make(stray_id, 0)
    with path.open("r+b") as creator:
        lock = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, layout.WRITER, 1, 0)
        fcntl.fcntl(creator, 37, lock)  # F_OFD_SETLK, without a name in Python 3.11
        assert stray_id not in sweep()
        assert path.exists()
    assert stray_id in sweep()


@pytest.mark.parametrize(
    "name", ["shmt-{uid}-", "shmt-{uid}-{id}", "shmt-{other}-{id}-0", "shmtx-{uid}-{id}-1", "{id}"]
)
def test_a_sweep_leaves_names_that_are_not_ours_alone(stray_id: str, name: str) -> None:
    path = SHARED_MEMORY / name.format(uid=os.geteuid(), other=os.geteuid() + 1, id=stray_id)
    path.write_bytes(b"somebody else's")
    try:
        sweep()
        assert path.read_bytes() == b"somebody else's"
    finally:
        path.unlink()


def test_a_ring_that_never_was_is_not_found(stray_id: str) -> None:
    with pytest.raises(SegmentNotFoundError, match="its ring is gone or was never here") as caught:
        Reader.join(stray_id)
    assert isinstance(caught.value, FileNotFoundError)


def test_a_ring_whose_writer_has_died_is_refused_to_new_readers(ring: Ring) -> None:
    reader = join_as_if_another_process(ring.id)
    ring.attachment.core.abandon()
    with pytest.raises(SegmentNotFoundError, match="its writer has left"):
        join_as_if_another_process(ring.id)
    assert reader.reap() == 0


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("mode", [0o666, 0o640, 0o604, 0o610, 0o777])
def test_a_segment_that_is_open_to_others_is_refused(ring: Ring, number: int, mode: int) -> None:
    path_of(ring.id, number).chmod(mode)
    with pytest.raises(SegmentError, match="another user or is open to others"):
        join_as_if_another_process(ring.id)
    path_of(ring.id, number).chmod(0o600)
    with join_as_if_another_process(ring.id) as reader:
        assert reader.statistics().processes[1].alive


@pytest.mark.parametrize("number", [0, 1])
def test_a_segment_of_another_user_is_refused(ring: Ring, number: int) -> None:
    # Needs no right to give files away: the process changes its own effective user instead.
    if os.geteuid() == 0:
        os.chown(path_of(ring.id, number), 12345, -1)
        with pytest.raises(SegmentError, match="another user or is open to others"):
            join_as_if_another_process(ring.id)
        os.chown(path_of(ring.id, number), 0, -1)
    else:
        owner = path_of(ring.id, number).stat().st_uid
        assert owner == os.geteuid()
        with pytest.raises(PermissionError):
            os.chown(path_of(ring.id, number), owner + 1, -1)
    with join_as_if_another_process(ring.id) as reader:
        assert reader.statistics().processes[1].alive


def test_a_link_in_place_of_a_segment_is_not_followed(stray_id: str, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(bytes(layout.control_nbytes(64)))
    path_of(stray_id).symlink_to(target)
    with pytest.raises(SegmentError):
        Reader.join(stray_id)
    sweep()
    assert target.exists()


@pytest.mark.parametrize(
    "nbytes", [0, 1, 64, 4095, 4096, 8192, layout.ENTRIES_OFFSET, layout.control_nbytes(64) - 4096]
)
def test_a_truncated_control_segment_is_refused_without_a_bus_error(ring: Ring, stray_id: str, nbytes: int) -> None:
    make(stray_id, 0, bytes(control_of(ring)[:nbytes]))
    with pytest.raises((CorruptSegmentError, SegmentNotFoundError)):
        Reader.join(stray_id)


@pytest.mark.parametrize("nbytes", [0, 4096, (1 << 20) - 4096, 2 << 20])
def test_a_segment_of_another_size_than_published_is_refused(ring: Ring, nbytes: int) -> None:
    whole = path_of(ring.id, 1)
    aside = whole.with_suffix(".aside")
    whole.rename(aside)
    make(ring.id, 1, bytes(nbytes))
    try:
        with pytest.raises(SegmentError, match="served inline from now on"):
            join_as_if_another_process(ring.id)
    finally:
        aside.rename(whole)


FIELDS = {"version": (8, "<I"), "features": (12, "<I"), "signature": (16, "<Q")}


@pytest.mark.parametrize("field", FIELDS)
def test_another_layout_is_refused_and_both_are_printed(ring: Ring, stray_id: str, field: str) -> None:
    offset, form = FIELDS[field]
    control = control_of(ring)
    (ours,) = struct.unpack_from(form, control, offset)
    struct.pack_into(form, control, offset, ours + 1)
    make(stray_id, 0, bytes(control))
    with pytest.raises(LayoutMismatchError) as caught:
        Reader.join(stray_id)
    expected, found = str(caught.value).split(";")
    kind = "x" if field != "version" else "d"
    name = "layout" if field == "version" else field
    assert f"{name} {ours:{kind}}" in expected
    assert f"{name} {ours + 1:{kind}}" in found
    assert "install the same version" in found


@pytest.mark.parametrize(
    ("offset", "form", "value"),
    [(0, "<Q", 0), (60, "<I", 0), (60, "<I", 65), (60, "<I", 2**32 - 1), (80, "<Q", 0), (80, "<Q", 2**64 - 1)],
    ids=["no magic", "no entries", "one entry more", "too many entries", "no size", "too large"],
)
def test_a_control_segment_that_contradicts_itself_is_refused(
    ring: Ring, stray_id: str, offset: int, form: str, value: int
) -> None:
    control = control_of(ring)
    struct.pack_into(form, control, offset, value)
    make(stray_id, 0, bytes(control))
    with pytest.raises(CorruptSegmentError):
        Reader.join(stray_id)


def test_a_segment_that_cannot_be_mapped_is_a_typed_error_then_inline_until_it_can(ring: Ring) -> None:
    reader = join_as_if_another_process(ring.id)
    first = ring.put(torch.zeros(1 << 18))
    second = ring.put(torch.ones(1 << 18))  # in a segment that the reader has not seen
    path = path_of(ring.id, 2)
    aside = path.with_suffix(".aside")
    path.rename(aside)
    try:
        with pytest.raises(SegmentError, match="cannot map segment 1 of ring"):
            opened(reader, shared(ring, second, reader))
        assert torch.equal(opened(reader, ring.share(second, reader)), second)  # inline
        assert ring.statistics().inline == {"unmappable": 1}
        with pytest.raises(SegmentError, match="cannot map segment 1 of ring"):
            reader.map_ahead()
        assert not isinstance(ring.share(second, reader), Handle)
    finally:
        aside.rename(path)
    reader.map_ahead()
    assert torch.equal(opened(reader, shared(ring, second, reader)), second)
    del first, second
    reader.close()


def test_a_failed_creation_leaves_no_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_pages(backing: object, fd: int, nbytes: int) -> None:
        raise OutOfSharedMemoryError(nbytes, 0, "as if")

    before = segment_names()
    monkeypatch.setattr(segment.backing.Backing, "reserve", no_pages)
    with pytest.raises(OutOfSharedMemoryError):
        Ring.create(capacity="1MiB")
    assert segment_names() == before


def test_the_mappings_of_a_ring_are_gone_when_it_is(ring: Ring) -> None:
    def mapped() -> int:
        return Path("/proc/self/maps").read_text().count(ring.id)

    held = ring.put(torch.zeros(100))
    assert mapped() >= 2
    ring.close()
    assert mapped() >= 2
    del held
    assert mapped() == 0


def test_a_reader_maps_segments_read_only_unless_asked(ring: Ring) -> None:
    def rights(of: int) -> set[str]:
        lines = Path("/proc/self/maps").read_text().splitlines()
        return {line.split()[1] for line in lines if line.endswith(path_of(ring.id, of).name)}

    assert rights(1) == {"rw-s"}
    with join_as_if_another_process(ring.id) as reader:
        assert rights(1) == {"rw-s", "r--s"}
        reader.close()
    assert rights(1) == {"rw-s"}
    with join_as_if_another_process(ring.id, writable=True) as reader:
        tensor = ring.put(torch.zeros(100))
        opened(reader, shared(ring, tensor, reader))[3] = 5.0
        assert tensor[3] == 5.0
    assert blocks(ring) == 1


def test_pythons_resource_tracker_is_not_told_of_a_ring() -> None:
    told: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resource_tracker, "register", lambda *call: told.append(call[0]))
        with Ring.create(capacity="1MiB") as ring:
            with join_as_if_another_process(ring.id) as reader:
                opened(reader, shared(ring, ring.put(torch.zeros(9)), reader))
            pythons = shared_memory.SharedMemory(create=True, size=1)
            pythons.close()
            (SHARED_MEMORY / pythons.name).unlink()
    assert not any(ring.id in name for name in told)
    assert len(told) == 1  # Python's own, to show that this would have noticed


def test_a_page_of_the_control_segment_is_where_the_layout_says(ring: Ring) -> None:
    with path_of(ring.id).open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as control:
        magic, version, features, signature = struct.unpack_from("<QIIQ", control, 0)
        assert magic.to_bytes(8, "little") == b"shmtring"
        assert (version, features) == (layout.LAYOUT_VERSION, 0)
        assert signature != 0
        assert control[24:40].hex() == ring.id
        assert ctypes.c_uint32.from_buffer_copy(control, 256).value == 1  # segments
