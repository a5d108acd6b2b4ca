"""Who is alive is what the kernel's locks say: not a pid, not a state in /proc, not a namespace."""

import contextlib
import ctypes
import os
import platform
import secrets
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Listener
from pathlib import Path

import pytest
import torch

from shmtransport import Reader, Ring, segment, sweep
from tests.processes.children import DEADLINE_S, Child, child, digest, pixels
from tests.support import ROOT, wait_until

SYS_EXIT = {"x86_64": 60, "aarch64": 93}[platform.machine()]
ROWS_OFFSET, ROW_NBYTES, PID_OFFSET = 4096, 512, 24
"""Where the rows are in the control segment, and the pid in a row: docs/protocol.md."""


@pytest.fixture
def ring() -> Iterator[Ring]:
    with Ring.create(capacity="4MiB", segment="4MiB", name="here") as ring:
        yield ring


@pytest.fixture
def engine() -> Iterator[Child]:
    with child("quick") as engine:
        yield engine


def hold_a_block(process: Child, ring: Ring) -> None:
    """It joins the ring and opens a handle, as ``tensor``."""
    process.run("reader = Reader.join(ring_id, name='engine')", ring_id=ring.id)
    wire = bytes(ring.share(pixels(1), process.ask("reader.peer_id")))
    process.run("tensor = reader.open(wire)", wire=wire)
    wait_until(lambda: [each.leased_blocks for each in ring.statistics().processes] == [0, 1])


def all_comes_back(ring: Ring) -> None:
    """Its one reader is dead: it is reaped, and nothing is in use any more."""
    wait_until(lambda: ring.reap() == 1, timeout_s=1.0)
    assert ring.reap() == 0
    wait_until(lambda: ring.attachment.core.room()[0] == 0, timeout_s=1.0)


# -- zombies ----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def forked(work: Callable[[socket.socket], None]) -> Iterator[tuple[int, socket.socket]]:
    """Pid of a child that does ``work``, and a socket to talk to it. Nobody waits for it before the end."""
    here, there = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            here.close()
            work(there)
        os._exit(3)
    there.close()
    here.settimeout(DEADLINE_S)
    try:
        yield pid, here
    finally:
        here.close()
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def state_of(pid: int) -> str:
    """One letter: proc(5), field 3 of stat."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_zombie_is_dead(ring: Ring) -> None:
    """Killed, and not waited for: its pid is taken, and a signal to it succeeds."""

    def work(link: socket.socket) -> None:
        reader = Reader.join(ring.id)
        own = Ring.create("1MiB")
        held = [own.put(pixels(2, 1000))]
        link.send(bytes.fromhex(reader.peer_id + own.id))
        held.append(reader.open(link.recv(1000)))  # type: ignore[arg-type]
        link.send(b"!")
        time.sleep(60)

    with forked(work) as (pid, link):
        ids = link.recv(32).hex()
        link.send(bytes(ring.share(pixels(1), ids[:32])))
        assert link.recv(1) == b"!"
        assert [each.alive for each in ring.statistics().processes] == [True, True]
        assert ring.reap() == 0
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: state_of(pid) == "Z")
        os.kill(pid, 0)
        all_comes_back(ring)
        wait_until(lambda: ids[32:] in sweep(), timeout_s=1.0)
        assert ids[32:] not in segment.rings()
        assert state_of(pid) == "Z"


def test_a_process_whose_main_thread_has_ended_lives_as_long_as_another_thread(ring: Ring) -> None:
    """To /proc it is a zombie."""

    def work(link: socket.socket) -> None:
        reader = Reader.join(ring.id)
        link.send(bytes.fromhex(reader.peer_id))
        tensor = reader.open(link.recv(1000))

        def hold() -> None:
            link.recv(1)
            link.send(digest(tensor).encode())
            time.sleep(60)

        threading.Thread(target=hold).start()
        ctypes.CDLL(None).syscall(SYS_EXIT, 0)  # of this thread only, and without the interpreter's lock

    with forked(work) as (pid, link):
        link.send(bytes(ring.share(pixels(1), link.recv(16).hex())))
        wait_until(lambda: state_of(pid) == "Z")
        assert [each.alive for each in ring.statistics().processes] == [True, True]
        assert ring.reap() == 0
        link.send(b"?")
        assert link.recv(1000).decode() == digest(pixels(1))
        os.kill(pid, signal.SIGKILL)
        all_comes_back(ring)


def test_a_thread_that_ends_gives_back_what_only_it_held(ring: Ring) -> None:
    own = threading.local()
    started = threading.Event()

    def work() -> None:
        own.tensor = ring.put(torch.ones(1000))
        frame = ring.put(torch.ones(1000))
        assert ring.statistics().blocks == 2
        assert frame[0] == 1
        started.set()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(20)
    assert started.is_set()
    assert ring.statistics().blocks == 0


def test_a_program_that_a_process_started_does_not_prolong_its_life(ring: Ring, engine: Child) -> None:
    """It inherits every descriptor that may be inherited, and lives on."""
    hold_a_block(engine, ring)
    engine.run("own = Ring.create('1MiB'); backed = own.put(pixels(2))")
    own_id = engine.ask("own.id")
    engine.run("import subprocess; started = subprocess.Popen(['sleep', '60'], close_fds=False, stdin=-3, stdout=-3)")
    started = engine.ask("started.pid")
    try:
        engine.kill()
        all_comes_back(ring)
        wait_until(lambda: own_id in sweep() or own_id not in segment.rings(), timeout_s=1.0)
        os.kill(started, 0)
    finally:
        os.kill(started, signal.SIGKILL)


# -- pids -------------------------------------------------------------------------------------------------------


def plant_pid(ring: Ring, index: int, pid: int) -> None:
    """Into a row, as if its tenant's pid had been given to another process meanwhile."""
    with segment.backing_of(ring.id).opened(ring.id, 0) as fd:
        os.pwrite(fd, struct.pack("<I", pid), ROWS_OFFSET + index * ROW_NBYTES + PID_OFFSET)
    assert [each.pid for each in ring.statistics().processes if each.index == index] == [pid]


def test_a_dead_reader_whose_pid_a_living_process_has_is_reaped(ring: Ring, engine: Child) -> None:
    hold_a_block(engine, ring)
    plant_pid(ring, 1, os.getpid())
    engine.kill()
    wait_until(lambda: [each.alive for each in ring.statistics().processes] == [True, False], timeout_s=1.0)
    all_comes_back(ring)


def test_a_living_reader_whose_pid_nobody_has_is_left_alone(ring: Ring, engine: Child) -> None:
    hold_a_block(engine, ring)
    with subprocess.Popen(["/bin/true"]) as ended:
        ended.wait(20)
    plant_pid(ring, 1, ended.pid)
    assert [each.alive for each in ring.statistics().processes] == [True, True]
    assert ring.reap() == 0
    assert engine.ask("digest(tensor)") == digest(pixels(1))
    plant_pid(ring, 0, ended.pid)  # the writer's
    assert ring.id not in sweep()
    engine.run("del tensor; Reader.join(ring_id)", ring_id=ring.id)


# -- namespaces -------------------------------------------------------------------------------------------------

OWN_PIDS = ["unshare", *([] if os.geteuid() == 0 else ["--user", "--map-current-user"]), "--pid", "--fork"]
SERVE = "import sys; from tests.processes.children import serve; serve(sys.argv[1])"


@contextlib.contextmanager
def child_with_own_pids() -> Iterator[Child]:
    """A child that is process 1 of a pid namespace, in the same /dev/shm; its ``pid`` is what it is called here."""
    address = f"shmtransport-test-{secrets.token_hex(8)}"
    with Listener(f"\0{address}", family="AF_UNIX") as listener:
        listener._listener._socket.settimeout(DEADLINE_S)  # type: ignore[attr-defined]
        command = [*OWN_PIDS, "--kill-child", sys.executable, "-c", SERVE, address]
        with subprocess.Popen(command, cwd=ROOT, start_new_session=True) as unshare:
            try:
                connection = listener.accept()
                with socket.socket(fileno=os.dup(connection.fileno())) as link:
                    pid, _, _ = struct.unpack("3i", link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
                assert connection.recv() == 1
                yield Child(connection, pid, unshare.wait)
            finally:
                unshare.kill()


def test_processes_of_two_pid_namespaces_take_each_other_for_alive_and_dead_rightly(ring: Ring, engine: Child) -> None:
    """The other one is process 1 there, as somebody else is here."""
    with child_with_own_pids() as other:
        for process in (other, engine):
            process.run("reader = Reader.join(ring_id)", ring_id=ring.id)
        ids = [process.ask("reader.peer_id") for process in (other, engine)]
        wire = bytes(ring.share(pixels(1), ids))
        for process in (other, engine):
            process.run("tensor = reader.open(wire)", wire=wire)
            assert process.ask("digest(tensor)") == digest(pixels(1))
        other.run("own = Ring.create('1MiB'); backed = own.put(pixels(2))")
        own_id = other.ask("own.id")
        with Reader.join(own_id) as reader:
            tensor = reader.open(other.ask("bytes(own.share(backed, to))", to=reader.peer_id))
            forwarded = other.ask("bytes(reader.share(tensor, to))", to=ids[1])

            assert [each.pid for each in ring.statistics().processes] == [os.getpid(), 1, engine.pid]
            assert other.ask("[each.alive for each in reader.statistics().processes]") == [True] * 3
            assert [ring.reap(), reader.reap(), engine.ask("reader.reap()"), other.ask("reader.reap()")] == [0] * 4
            assert own_id not in sweep()

            os.kill(other.pid, signal.SIGKILL)
            wait_until(lambda: ring.reap() == 1)
            assert [each.alive for each in reader.statistics().processes] == [False, True]
            assert digest(tensor) == digest(pixels(2))
            del tensor
        assert engine.ask("digest(reader.open(wire))", wire=forwarded) == digest(pixels(1))
        engine.run("tensor = None; gc.collect()")
        wait_until(lambda: ring.attachment.core.room()[0] == 0)
        wait_until(lambda: own_id in sweep() or own_id not in segment.rings())
