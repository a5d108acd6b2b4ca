"""Nobody is misled by what answers in a writer's place, nor held up by who asks: see `planted_sockets`.

The seals one by one, the directory's modes and a stopped writer are in tests/processes/test_memfd.py.
"""

import os
import secrets
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from shmtransport import Reader, Ring, SegmentError, ShmTransportError, sweep
from shmtransport.segment import memfd
from tests.hostile.planted_names import ATTACKER, IS_ROOT, VICTIM, become, ring_works
from tests.hostile.planted_sockets import ANSWERS, HANDED_OVER, hand_over, impostor
from tests.hostile.trials import Mark, Outcome, attempt, trial
from tests.peers import join_as_if_another_process

DEADLINE_S = 0.5


@pytest.fixture
def base() -> Iterator[Path]:
    """Where socket directories are, as open to everybody as /tmp, and as short a path."""
    with pytest.MonkeyPatch.context() as patch:
        short = Path(f"/tmp/shmt-test-{secrets.token_hex(4)}")
        short.mkdir()
        short.chmod(0o777)
        patch.setenv(memfd.VARIABLE, str(short))
        patch.setattr(memfd, "DEADLINE_S", DEADLINE_S)
        yield short
        for path in sorted(short.rglob("*"), reverse=True):
            path.unlink() if path.is_symlink() or not path.is_dir() else path.rmdir()
        short.rmdir()


@pytest.fixture
def sockets(base: Path) -> Path:
    """This user's, as it should be."""
    made = base / f"shmt-{os.geteuid()}"
    made.mkdir(mode=0o700)
    return made


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_an_impostors_answer_is_a_typed_error_in_time_and_no_descriptor_is_kept(
    sockets: Path, answer: Callable[[socket.socket], object]
) -> None:
    ring_id = secrets.token_hex(16)

    def attacks(mark: Mark) -> Outcome:
        with impostor(sockets / ring_id, answer):
            mark(0)
            start = time.monotonic()
            with pytest.raises(ShmTransportError):
                Reader.join(ring_id)
            assert time.monotonic() - start < DEADLINE_S + 5
        assert not is_kept()
        return Counter()

    trial(attacks)


def is_kept() -> bool:
    """Whether this process still has a descriptor of what an impostor handed over."""
    names = [entry.path for entry in os.scandir("/proc/self/fd")]
    return any("/memfd:hostile" in os.readlink(name) for name in names if os.path.lexists(name))


@pytest.mark.parametrize("make", HANDED_OVER.values(), ids=HANDED_OVER)
def test_whatever_is_handed_over_as_a_control_segment_is_refused(sockets: Path, make: Callable[[], int]) -> None:
    ring_id = secrets.token_hex(16)

    def attacks(mark: Mark) -> Outcome:
        with impostor(sockets / ring_id, lambda client: hand_over(client, 1, make)):
            mark(0)
            with pytest.raises(ShmTransportError):
                Reader.join(ring_id)
        return Counter()

    trial(attacks)


@pytest.mark.parametrize("make", HANDED_OVER.values(), ids=HANDED_OVER)
def test_whatever_is_handed_over_as_a_data_segment_is_refused(sockets: Path, make: Callable[[], int]) -> None:
    def attacks(mark: Mark) -> Outcome:
        with Ring.create("256KiB", segment="64KiB", entries=8, backing="memfd") as ring:
            reader = join_as_if_another_process(ring.id)
            held = [ring.put(torch.zeros(65536, dtype=torch.uint8)) for _ in range(2)]
            handle = ring.share(held[1], reader.peer_id)
            genuine = sockets / ring.id
            genuine.rename(sockets / "aside")
            mark(0)
            with (
                impostor(genuine, lambda client: hand_over(client, 1, make)),
                pytest.raises(SegmentError, match="served inline from now on"),
            ):
                reader.open(handle)
            (sockets / "aside").rename(genuine)
            held.clear()
            reader.close()
        return Counter()

    trial(attacks)


def test_clients_that_say_nothing_too_little_or_too_much_hold_up_no_join_for_longer_than_its_deadline(
    sockets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memfd, "DEADLINE_S", 5.0)
    with Ring.create("256KiB", segment="64KiB", entries=8, backing="memfd") as ring:
        path = str(sockets / ring.id)
        clients = []
        for number in range(16):
            client = socket.socket(socket.AF_UNIX)
            client.connect(path)
            client.send((b"", b"\0", b"\0\0\0", b"\xff" * 4, b"\xff" * 999)[number % 5])
            clients.append(client)
        with join_as_if_another_process(ring.id) as reader:
            assert reader.open(bytes(ring.share(ring.put(torch.ones(9)), reader.peer_id))).sum() == 9
        for client in clients:
            client.close()


def test_a_thousand_connections_cost_a_join_a_typed_error_at_most_and_the_ring_nothing(
    sockets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memfd, "DEADLINE_S", 2.0)
    outcome: Outcome = Counter()
    with Ring.create("256KiB", segment="64KiB", entries=8, backing="memfd") as ring:
        clients, kept = [], ring.put(torch.arange(100))
        for _ in range(1000):
            client = socket.socket(socket.AF_UNIX)
            client.setblocking(False)
            clients.append(client)
            try:
                client.connect(str(sockets / ring.id))
            except BlockingIOError:
                break  # the backlog is full
        with attempt(outcome):
            join_as_if_another_process(ring.id).close()
        for client in clients:
            client.close()
        join_until_it_works(ring.id)
        assert torch.equal(kept, torch.arange(100))
        del kept
    assert set(outcome) <= {"fine", "SegmentError"}


def join_until_it_works(ring_id: str) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            join_as_if_another_process(ring_id).close()
        except SegmentError:
            assert time.monotonic() < deadline
        else:
            return


def another_users_directory(path: Path) -> None:
    path.mkdir()
    path.chmod(0o777)
    if IS_ROOT:
        os.chown(path, ATTACKER, ATTACKER)


def another_users_closed_directory(path: Path) -> None:
    another_users_directory(path)
    path.chmod(0o700 if IS_ROOT else 0o755)


def link_to_the_victims_files(path: Path) -> None:
    path.symlink_to(path.parent / "precious")


def a_file(path: Path) -> None:
    path.touch()


def a_fifo(path: Path) -> None:
    os.mkfifo(path)


@pytest.mark.parametrize(
    "make", [another_users_directory, another_users_closed_directory, link_to_the_victims_files, a_file, a_fifo]
)
def test_what_stands_in_the_place_of_the_directory_costs_that_backing_and_nothing_else(
    base: Path, make: Callable[[Path], None]
) -> None:
    precious = base / "precious"
    precious.mkdir()
    kept = [precious / name for name in ("thesis.txt", "0" * 32, "1" * 32 + ".new")]
    for path in kept:
        path.write_text("do not delete")
        os.chown(path, VICTIM, VICTIM) if IS_ROOT else None
    dead = precious / ("2" * 32)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(dead))
    for path in (precious, dead):
        os.chown(path, VICTIM, VICTIM) if IS_ROOT else None
    directory = base / f"shmt-{VICTIM}"
    make(directory)

    def attacks(mark: Mark) -> Outcome:
        become(VICTIM)
        mark(0)
        ring_works()
        mark(1)
        with Ring.create("64KiB", segment="64KiB", backing="posix", copy_kernel="libc") as ring:
            if make is another_users_directory:
                (directory / ring.id).touch()  # others see the ids of named rings
            join_as_if_another_process(ring.id).close()
        mark(2)
        sweep()
        with pytest.raises(SegmentError):
            Ring.create("64KiB", segment="64KiB", backing="memfd", copy_kernel="libc")
        return Counter()

    trial(attacks)
    assert all(path.read_text() == "do not delete" for path in kept)
    assert dead.exists(), "another user's link leads to it"


def test_a_sweep_removes_sockets_of_dead_rings_and_nothing_else(sockets: Path) -> None:
    others = [sockets / name for name in ("0" * 32, "1" * 32 + ".new", "notes", "x" * 32)]
    for path in others[:3]:
        path.write_text("do not delete")
    dead = sockets / ("2" * 32)
    for path in (dead, others[3]):
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
    assert sweep() == [dead.name]
    assert not dead.exists()
    assert all(path.exists() for path in others)


def test_another_user_that_gets_at_the_socket_is_answered_nothing(sockets: Path) -> None:
    if not IS_ROOT:
        with pytest.raises(PermissionError):
            os.setuid(os.geteuid() + 1)
        return
    with Ring.create("64KiB", segment="64KiB", backing="memfd") as ring:
        path = sockets / ring.id
        sockets.chmod(0o777)  # by mistake
        path.chmod(0o777)

        def attacks(mark: Mark) -> Outcome:
            become(ATTACKER)
            mark(0)
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(10)
                client.connect(str(path))
                try:
                    client.sendall(bytes(4))
                    answer, fds, _, _ = socket.recv_fds(client, 1, 8)
                except ConnectionError:
                    answer, fds = b"", []
            return Counter(answers=len(answer), descriptors=len(fds), tries=1)

        assert trial(attacks) == Counter(tries=1)
        sockets.chmod(0o700)


def test_a_socket_that_another_user_serves_is_not_asked(base: Path) -> None:
    if not IS_ROOT:
        with pytest.raises(PermissionError):
            os.setuid(os.geteuid() + 1)
        return
    ring_id = secrets.token_hex(16)
    directory = base / f"shmt-{VICTIM}"
    directory.mkdir(mode=0o700)
    asked: list[bytes] = []

    def attacks(mark: Mark) -> Outcome:
        become(VICTIM)
        mark(0)
        with pytest.raises(SegmentError, match=f"to be served by user {VICTIM}, got user 0"):
            Reader.join(ring_id)
        return Counter()

    with impostor(directory / ring_id, lambda client: asked.append(client.recv(1))):
        os.chown(directory, VICTIM, VICTIM)
        (directory / ring_id).chmod(0o777)
        trial(attacks)
    assert b"".join(asked) == b""
