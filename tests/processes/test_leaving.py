"""However a process ends, with blocks, rings and handles in its hands: nothing stays in /dev/shm."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from shmtransport import Ring, sweep
from tests.processes.children import NAMES, Child, Kind, child, digest, names_of, pixels, wait_until_gone
from tests.support import running_python, wait_until

MIB = 1 << 20


@pytest.fixture
def engine() -> Iterator[Child]:
    with child("quick") as engine:
        yield engine


def joined(process: Child, ring_id: str) -> str:
    process.run("reader = Reader.join(ring_id, name='engine')", ring_id=ring_id)
    peer_id = process.ask("reader.peer_id")
    assert isinstance(peer_id, str)
    return peer_id


# -- leaving on one's own -----------------------------------------------------------------------------------------

# Forks for each request; the child falls through to the end of the script, and through all of the
# interpreter's own way out.
ENDS = """
import atexit
early = []
atexit.register(lambda: [call() for call in early])
import gc, json, os, sys, threading, time
import torch
from shmtransport import Reader, Ring
for line in iter(sys.stdin.readline, ""):
    asked = json.loads(line)
    child = 0 if asked["really"] else os.fork()
    if child == 0:
        break
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
else:
    sys.exit()
os.dup2(os.open(asked["errors"], os.O_WRONLY | os.O_CREAT), 2)
ring = Ring.create("4MiB", segment="1MiB")
reader = Reader.join(asked["ring_id"])
print(reader.peer_id, flush=True)
held = [ring.put(torch.ones(1 << 18)) for _ in range(3)]
held.append(reader.open(bytes.fromhex(sys.stdin.readline())))
flying = ring.share(held[0], ring)
print(ring.id, flush=True)
exec(asked["way"])
"""

# Begun, and in the middle of anything, when the main thread ends. Those that go on work on arrays: a daemon thread
# that comes back from a torch operation then ends the process with "terminate called without an active exception".
IN_A_THREAD = """
begun = threading.Event()
def work():
    begun.set()
    {work}
threading.Thread(target=work, daemon={daemon}).start()
begun.wait(10)
time.sleep(0.02)
"""

# A channel whose peer takes nothing.
SENDING = """
import signal, zmq
from shmtransport import Channel, WaitTimeoutError
context = zmq.Context()
near, far = context.socket(zmq.PAIR), context.socket(zmq.PAIR)
near.sndhwm = far.rcvhwm = 1
near.bind("inproc://full"); far.connect("inproc://full")
channel = Channel(near, ring)
while near.poll(0, zmq.POLLOUT): channel.send(1)
def send_until(handler):
    signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    while True: channel.send(held[0], timeout_s=60)
"""

WAYS_OUT = {
    "the end of the script": "",
    "sys.exit": "sys.exit(0)",
    "an exception": "raise SystemExit(0) from ValueError('as if')",
    "a cycle that nobody collects": "gc.disable(); held.append(held); circle = [ring, reader]; circle.append(circle)",
    "tensors in a module": "import shmtransport; shmtransport.kept = held; shmtransport.kept_ring = ring",
    "a thread that holds tensors": "threading.Thread(target=threading.Event().wait, args=(60,), daemon=True).start()",
    "a generator in the middle": "g = (t for t in held); next(g)",
    "an exit handler that uses the ring": "import atexit; atexit.register(lambda: ring.put(torch.ones(5)))",
    "an exit handler that reads a tensor": "atexit.register(lambda kept=held[3]: kept.sum())",
    "an exit handler that was there before the package's": "early.append(lambda: held[3].sum())",
    "a thread that outlives the main thread": IN_A_THREAD.format(daemon=False, work="time.sleep(0.1); held[3].sum()"),
    "a thread in the middle of a read": IN_A_THREAD.format(
        daemon=True, work="array = held[3].numpy()\n    while True: array.sum()"
    ),
    "a thread in the middle of calls": IN_A_THREAD.format(
        daemon=True,
        work="array = held[3].numpy()\n    while ring.reap() == 0: ring.open(ring.share(ring.put(-array), ring))",
    ),
    "a thread that waits for room": IN_A_THREAD.format(
        daemon=True,
        work="full = Ring.create('64KiB', on_full='block'); kept = full.put(torch.ones(1 << 14)); full.put(kept + 1)",
    ),
    "sys.exit in a thread": IN_A_THREAD.format(daemon=False, work="own = ring.put(torch.ones(5)); sys.exit(1)"),
    "sys.exit in the middle of a send": SENDING + "send_until(lambda *_: sys.exit(0))",
    "the end while a thread is in the middle of a send": SENDING
    + IN_A_THREAD.format(daemon=True, work="channel.send(held[0], timeout_s=60)"),
    "a tensor that refers to its ring": "held[0].ring = ring; ring.held = held",
}


Interpreter = subprocess.Popen[str]


@pytest.fixture(scope="module")
def interpreter() -> Iterator[Interpreter]:
    with running_python(ENDS) as process:
        yield process


def leave_by(way: str, process: Interpreter, errors: Path, *, really: bool) -> None:
    """A process that holds blocks of two rings, one of them its own, ends that way; nothing of it stays."""
    assert process.stdin is not None
    assert process.stdout is not None

    def tell(line: str) -> None:
        assert process.stdin is not None
        process.stdin.write(f"{line}\n")
        process.stdin.flush()

    with Ring.create("1MiB") as ring:
        tell(json.dumps({"ring_id": ring.id, "way": WAYS_OUT[way], "errors": str(errors), "really": really}))
        peer_id = process.stdout.readline().strip()
        tell(bytes(ring.share(torch.ones(100), peer_id)).hex())
        ring_id = process.stdout.readline().strip()
        assert len(ring_id) == 32
        status = process.wait(30) if really else int(process.stdout.readline())
        assert (status, errors.read_text()) == (0, "")
        assert names_of(ring_id) == []
        assert [each.role for each in ring.statistics().processes if each.alive] == ["writer"]
        ring.reap()
        wait_until(lambda: ring.statistics().blocks == 0)
    assert names_of(ring.id) == []


@pytest.mark.parametrize("way", WAYS_OUT)
def test_a_forked_process_that_ends_without_close_leaves_nothing(
    way: str, interpreter: Interpreter, tmp_path: Path
) -> None:
    leave_by(way, interpreter, tmp_path / "errors", really=False)


@pytest.mark.parametrize("way", ["the end of the script", "a thread that holds tensors"])
def test_a_process_that_ends_without_close_leaves_nothing(way: str, tmp_path: Path) -> None:
    with running_python(ENDS) as process:
        leave_by(way, process, tmp_path / "errors", really=True)


@pytest.mark.parametrize("kind", ["fork", "spawn", "quick"])
def test_a_multiprocessing_child_that_ends_without_close_leaves_nothing(kind: Kind) -> None:
    """Such children end by os._exit() behind their own handlers: the core's exit(3) handler never runs."""
    with Ring.create("1MiB") as ring:
        with child(kind) as process:
            peer_id = joined(process, ring.id)
            process.run("own = Ring.create('1MiB'); held = [own.put(torch.ones(1000))]")
            process.run(
                "held += [reader.open(wire), own.share(held[0], own)]", wire=bytes(ring.share(pixels(1), peer_id))
            )
            own_id = process.ask("own.id")
            assert process.finish() == 0
        assert names_of(own_id) == []
        assert [each.role for each in ring.statistics().processes if each.alive] == ["writer"]


@pytest.mark.parametrize("kind", ["fork", "quick"])
@pytest.mark.parametrize("status", [0, 7])
def test_a_multiprocessing_child_that_calls_sys_exit_leaves_nothing(kind: Kind, status: int) -> None:
    with child(kind) as process:
        process.run("own = Ring.create('1MiB'); held = [own.put(torch.ones(1000))]")
        own_id = process.ask("own.id")
        assert process.run_until_death(f"sys.exit({status})") == status
    assert names_of(own_id) == []


@pytest.mark.parametrize(
    "way", ["os._exit(5)", SENDING + "send_until(lambda *_: os._exit(5))"], ids=["idle", "sending"]
)
def test_os_exit_is_a_death_like_any_other(engine: Child, way: str) -> None:
    with Ring.create("2MiB", segment="2MiB", on_full="raise") as ring:
        peer_id = joined(engine, ring.id)
        engine.run("tensor = reader.open(wire)", wire=bytes(ring.share(pixels(1, 2 * MIB), peer_id)))
        engine.run("own = Ring.create('1MiB'); backed = own.put(pixels(1, 1000))")
        own_id = engine.ask("own.id")
        assert engine.run_until_death(f"ring, held = own, [backed]\n{way}") == 5
        assert ring.holds(ring.put(pixels(2, 2 * MIB)))
        wait_until(lambda: own_id in sweep() or not names_of(own_id), 1.0)
        assert names_of(own_id) == []


def test_a_reader_that_closes_in_peace_leaves_the_table(engine: Child) -> None:
    with Ring.create("2MiB") as ring:
        peer_id = joined(engine, ring.id)
        engine.run("tensor = reader.open(wire); reader.close()", wire=bytes(ring.share(pixels(1), peer_id)))
        assert len(ring.statistics().processes) == 2  # a tensor still needs the place
        assert engine.ask("digest(tensor)") == digest(pixels(1))
        engine.run("tensor = None; del reader; gc.collect()")
        assert len(ring.statistics().processes) == 1
        assert ring.reap() == 0


@pytest.mark.posix
def test_the_last_out_of_a_peaceful_end_removes_the_names(engine: Child) -> None:
    with child("quick") as writer:
        writer.run("ring = Ring.create('2MiB'); backed = ring.put(pixels(1))")
        ring_id = writer.ask("ring.id")
        peer_id = joined(engine, ring_id)
        engine.run("tensor = reader.open(wire)", wire=writer.ask("bytes(ring.share(backed, p))", p=peer_id))
        assert writer.finish() == 0
    assert len(names_of(ring_id)) == NAMES
    assert engine.ask("digest(tensor)") == digest(pixels(1))
    assert engine.finish() == 0
    wait_until_gone(ring_id)


def test_an_unopened_handle_survives_the_closing_of_its_writer(engine: Child) -> None:
    """close() stops calls; what is on its way arrives."""
    with child("quick") as writer:
        writer.run("ring = Ring.create('2MiB')")
        ring_id = writer.ask("ring.id")
        peer_id = joined(engine, ring_id)
        wire = writer.ask("bytes(ring.share(pixels(1), p))", p=peer_id)
        writer.run("ring.close(); del ring; gc.collect()")
        assert engine.ask("digest(reader.open(wire))", wire=wire) == digest(pixels(1))
        engine.run("reader.close(); del reader; gc.collect()")
        wait_until_gone(ring_id)
