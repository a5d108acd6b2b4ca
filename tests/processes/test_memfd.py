"""The anonymous backing: sealed, handed over a socket, and nothing of it left whatever dies.

What it has in common with the named one is tested by the same tests, run with SHMTRANSPORT_BACKING=memfd.
"""

import contextlib
import ctypes
import fcntl
import mmap
import os
import signal
import socket
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from shmtransport import (
    ConfigError,
    CorruptSegmentError,
    Inline,
    Reader,
    Ring,
    SegmentError,
    SegmentNotFoundError,
    segment,
    sweep,
)
from shmtransport.segment import memfd, room
from tests.peers import join_as_if_another_process
from tests.processes.children import Child, child, digest, pixels
from tests.support import segment_names, wait_until
from tests.unit.peers import opened, shared

MIB = 1 << 20
SEALS = {
    "shrink": fcntl.F_SEAL_SHRINK,
    "grow": fcntl.F_SEAL_GROW,
    "future write": 0x10,  # F_SEAL_FUTURE_WRITE, without a name in Python 3.11
    "seal": fcntl.F_SEAL_SEAL,
}


@pytest.fixture
def ring() -> Iterator[Ring]:
    with Ring.create(capacity="8MiB", segment="1MiB", backing="memfd", name="camera") as ring:
        yield ring


@pytest.fixture
def engine() -> Iterator[Child]:
    with child("quick") as engine:
        yield engine


@pytest.fixture
def private_sockets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory for sockets that no other test uses."""
    monkeypatch.setenv(memfd.VARIABLE, str(tmp_path))
    return tmp_path / f"shmt-{os.geteuid()}"


def socket_of(ring_id: str) -> Path:
    return memfd._directory() / ring_id


def holders_of(ring_id: str) -> set[int]:
    """Pids of processes that map a segment of the ring or have a descriptor of one."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        texts = []
        with contextlib.suppress(OSError):  # it ended meanwhile
            texts.append((process / "maps").read_text())
            for fd in (process / "fd").iterdir():
                with contextlib.suppress(OSError):  # the one that this very loop reads
                    texts.append(os.readlink(fd))
        if any(ring_id in text for text in texts):
            found.add(int(process.name))
    return found


# -- sealed -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "expected"), [(0, {"shrink", "grow", "seal"}), (1, {"shrink", "grow", "future write", "seal"})]
)
def test_the_size_of_every_segment_is_final(ring: Ring, number: int, expected: set[str]) -> None:
    with segment.BY_NAME["memfd"].opened(ring.id, number) as fd:
        found = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
        assert {name for name, bit in SEALS.items() if found & bit} == expected
        for nbytes in (0, 4096, os.fstat(fd).st_size + 4096):
            with pytest.raises(PermissionError):
                os.ftruncate(fd, nbytes)
        assert stat.S_IMODE(os.fstat(fd).st_mode) == 0o600


def test_no_reader_can_map_a_data_segment_writable_or_make_its_mapping_so(ring: Ring) -> None:
    with segment.BY_NAME["memfd"].opened(ring.id, 1) as fd, pytest.raises(PermissionError):
        mmap.mmap(fd, 4096)
    reader = join_as_if_another_process(ring.id)
    tensor = opened(reader, shared(ring, ring.put(pixels(1)), reader))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.mprotect(ctypes.c_void_p(tensor.data_ptr()), 4096, mmap.PROT_READ | mmap.PROT_WRITE) == -1
    assert os.strerror(ctypes.get_errno()) == "Permission denied"
    reader.close()
    with pytest.raises(ConfigError, match="writable: expected False for a ring whose backing is memfd"), child("quick"):
        _join_elsewhere_writable(ring.id)


def _join_elsewhere_writable(ring_id: str) -> None:
    """As another process would: this one's own attachment is the writer's, and is found first."""
    from shmtransport import attachment

    attachment._attachments.pop(ring_id)
    Reader.join(ring_id, writable=True)


def test_a_segment_that_is_not_sealed_is_refused(ring: Ring, private_sockets: Path) -> None:
    """Somebody of the same user answers in a writer's place."""
    private_sockets.mkdir(mode=0o700)
    ring_id = "0" * 32
    unsealed = os.memfd_create("as-if", os.MFD_ALLOW_SEALING)
    os.fchmod(unsealed, 0o600)
    os.ftruncate(unsealed, 1 << 20)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(private_sockets / ring_id))
        listener.listen()

        def hand_over() -> None:
            client, _ = listener.accept()
            with client:
                client.settimeout(5)
                client.recv(4)
                socket.send_fds(client, [b"\1"], [unsealed])

        server = threading.Thread(target=hand_over)
        server.start()
        with pytest.raises(CorruptSegmentError, match="not a sealed memfd"):
            Reader.join(ring_id)
        server.join(5)
    os.close(unsealed)
    assert sweep() == [ring_id]


# -- found ------------------------------------------------------------------------------------------------------


def test_a_ring_has_one_name_and_that_is_a_socket_in_a_closed_directory(ring: Ring) -> None:
    (name,) = (name for name in segment_names() if ring.id in name)
    path = Path(name)
    assert path == socket_of(ring.id)
    assert stat.S_ISSOCK(path.stat().st_mode)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert path.parent.stat().st_uid == os.geteuid()
    ring.close()
    assert not path.exists()


def test_readers_find_a_ring_by_its_id_alone(ring: Ring, engine: Child) -> None:
    engine.run("reader = Reader.join(ring_id)", ring_id=ring.id)
    held = [ring.put(pixels(seed)) for seed in range(5)]  # in segments that the reader has not seen
    peer_id = engine.ask("reader.peer_id")
    for seed, tensor in enumerate(held):
        wire = bytes(shared(ring, tensor, peer_id))
        assert engine.ask("digest(reader.open(wire))", wire=wire) == digest(pixels(seed))


def test_a_writer_that_has_closed_still_hands_over_what_its_handles_need(ring: Ring, engine: Child) -> None:
    engine.run("reader = Reader.join(ring_id)", ring_id=ring.id)
    peer_id = engine.ask("reader.peer_id")
    first = ring.put(pixels(1))
    wire = bytes(shared(ring, ring.put(pixels(2)), peer_id))  # in a segment that the reader has not seen
    ring_id = ring.id
    ring.close()
    assert engine.ask("digest(reader.open(wire))", wire=wire) == digest(pixels(2))
    del first
    wait_until(lambda: not socket_of(ring_id).exists())


def test_a_ring_that_never_was_is_not_found(ring: Ring) -> None:
    with pytest.raises(SegmentNotFoundError, match="gone or was never here"):
        segment.BY_NAME["memfd"].opened("0" * 32, 0).__enter__()
    with pytest.raises(SegmentNotFoundError, match="knows no segment 9"):
        segment.BY_NAME["memfd"].opened(ring.id, 9).__enter__()


def test_a_writer_that_is_stopped_is_an_error_in_time(engine: Child, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memfd, "DEADLINE_S", 0.2)
    engine.run("ring = Ring.create('1MiB', backing='memfd')")
    ring_id = engine.ask("ring.id")
    with engine.stopped():
        with pytest.raises(SegmentError, match="is it stopped"):
            Reader.join(ring_id)
        assert ring_id not in sweep()  # it lives
    Reader.join(ring_id).close()
    engine.run("ring.close()")


@pytest.mark.parametrize("mode", [0o777, 0o750, 0o701])
def test_a_directory_that_is_open_to_others_is_refused(private_sockets: Path, mode: int) -> None:
    private_sockets.mkdir()
    private_sockets.chmod(mode)
    before = segment_names()
    with pytest.raises(SegmentError, match="with mode 700"):
        Ring.create("1MiB", backing="memfd")
    assert segment_names() == before
    (private_sockets / ("0" * 32)).touch()
    with pytest.raises(SegmentError, match="with mode 700"):
        Reader.join("0" * 32)


@pytest.mark.parametrize("base", ["relative", "/" + "long/" * 20])
def test_a_directory_that_cannot_be_used_is_named(monkeypatch: pytest.MonkeyPatch, base: str) -> None:
    monkeypatch.setenv(memfd.VARIABLE, base)
    with pytest.raises(ConfigError, match=memfd.VARIABLE):
        Ring.create("1MiB", backing="memfd")


# -- left -------------------------------------------------------------------------------------------------------


def test_nothing_holds_memory_when_everybody_was_killed_and_the_next_start_removes_the_socket(engine: Child) -> None:
    with child("quick") as writer:
        writer.run("ring = Ring.create('64MiB', segment='64MiB', backing='memfd'); held = ring.put(pixels(1))")
        ring_id = writer.ask("ring.id")
        engine.run("reader = Reader.join(ring_id)", ring_id=ring_id)
        assert holders_of(ring_id) == {writer.pid, engine.pid}
        writer.kill()
        engine.kill()
    assert holders_of(ring_id) == set()  # and so the kernel has freed it
    assert socket_of(ring_id).exists()
    Ring.create("1MiB").close()
    assert not socket_of(ring_id).exists()


def test_readers_of_a_killed_writer_read_on(engine: Child) -> None:
    with child("quick") as writer:
        writer.run("ring = Ring.create('8MiB', segment='4MiB', backing='memfd')")
        reader = Reader.join(writer.ask("ring.id"))
        peer_id = reader.peer_id
        tensor = reader.open(writer.ask("bytes(ring.share(pixels(1), peer_id))", peer_id=peer_id))
        writer.kill()
    assert digest(tensor) == digest(pixels(1))
    reader.close()
    sweep()


def test_what_nobody_mapped_while_the_writer_lived_is_an_error_at_once_and_costs_others_nothing(engine: Child) -> None:
    with child("quick") as writer:
        writer.run("ring = Ring.create('8MiB', segment='1MiB', backing='memfd')")
        ring_id = writer.ask("ring.id")
        reader = Reader.join(ring_id)
        engine.run("reader = Reader.join(ring_id)", ring_id=ring_id)
        engine_id = engine.ask("reader.peer_id")
        writer.run("first = ring.put(pixels(1)); second = ring.put(pixels(2))")
        share = "[bytes(ring.share(tensor, [mine, engine])) for tensor in (first, second)]"
        first, second = writer.ask(share, mine=reader.peer_id, engine=engine_id)
        tensors = [reader.open(first), reader.open(second)]  # the second in a segment that the engine has not mapped
        writer.kill()
    assert engine.ask("digest(reader.open(wire))", wire=first) == digest(pixels(1))
    started = time.monotonic()
    with pytest.raises(AssertionError, match=r"errors\.SegmentError: .*nobody serves"):
        engine.ask("reader.open(wire)", wire=second)
    assert time.monotonic() - started < 1
    forwarded = reader.share(tensors[1], [engine_id])
    assert isinstance(forwarded, Inline)
    assert engine.ask("digest(reader.open(wire))", wire=bytes(forwarded)) == digest(pixels(2))
    del tensors
    reader.close()
    engine.run("reader.close()")
    sweep()


def test_a_forked_child_keeps_neither_the_memory_nor_the_socket(ring: Ring) -> None:
    ring_id = ring.id
    ring.put(pixels(1))
    told, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.read(told, 1)  # until the parent has looked
        os._exit(0)
    try:
        assert holders_of(ring_id) == {os.getpid()}
        ring.close()
        assert holders_of(ring_id) == set()
        assert not socket_of(ring_id).exists()
    finally:
        os.close(tell)
        os.close(told)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_a_child_that_outlives_its_killed_parent_does_not_answer_in_its_place(engine: Child) -> None:
    engine.run("ring = Ring.create('1MiB', backing='memfd')\nheir = os.fork()\nif heir == 0: signal.pause()")
    ring_id, heir = engine.ask("ring.id"), engine.ask("heir")
    try:
        engine.kill()
        with pytest.raises(SegmentNotFoundError, match="nobody serves"):
            Reader.join(ring_id)
        assert ring_id in sweep()
    finally:
        os.kill(heir, signal.SIGKILL)


def test_a_socket_that_does_not_listen_yet_is_swept_and_made_anew(private_sockets: Path) -> None:
    private_sockets.mkdir(mode=0o700)
    half = private_sockets / f"{'0' * 32}.new"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(half))
        assert sweep() == ["0" * 32]
        assert not half.exists()
    renames = []
    rename = Path.rename

    def swept_first(path: Path, target: Path) -> Path:
        renames.append(path)
        if len(renames) == 1:
            path.unlink()
        return rename(path, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "rename", swept_first)
        with Ring.create("1MiB", backing="memfd") as ring:
            assert len(renames) == 2
            assert segment.backing_of(ring.id).NAME == "memfd"
    assert list(private_sockets.iterdir()) == []


# -- chosen -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("free_nbytes", "expected"), [(64 * MIB, "posix"), (64 * MIB - 1, "memfd"), (0, "memfd")])
def test_auto_takes_posix_where_the_whole_capacity_fits(
    monkeypatch: pytest.MonkeyPatch, free_nbytes: int, expected: str
) -> None:
    monkeypatch.delenv(segment.VARIABLE, raising=False)
    monkeypatch.setattr(room, "filesystem_nbytes", lambda: free_nbytes)
    assert expected == segment.choose("auto", 64 * MIB).NAME
    assert segment.choose("posix", 64 * MIB).NAME == "posix"
    assert segment.choose("memfd", 64 * MIB).NAME == "memfd"


def test_the_environment_decides_for_auto_only(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("posix", "memfd"):
        monkeypatch.setenv(segment.VARIABLE, name)
        with Ring.create("1MiB") as ring:
            assert name == ring.attachment.backing.NAME
        with Ring.create("1MiB", backing="posix") as ring:
            assert ring.attachment.backing.NAME == "posix"
    monkeypatch.setenv(segment.VARIABLE, "tmpfs")
    with pytest.raises(ConfigError, match="SHMTRANSPORT_BACKING: expected one of auto, posix, memfd, got 'tmpfs'"):
        Ring.create("1MiB")
