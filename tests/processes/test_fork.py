"""What a forked child inherits is dead wood: every call says so, a load faults, and nothing of it harms the parent."""

import asyncio
import faulthandler
import gc
import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
import zmq
import zmq.asyncio

from shmtransport import Channel, ForkedError, Handle, Reader, Ring, sweep
from shmtransport.asyncio import Channel as AsyncChannel
from tests.peers import join_as_if_another_process
from tests.processes.children import NAMES, child, digest, names_of, pixels, wait_until_gone
from tests.support import stop, wait_until


@pytest.fixture
def ring() -> Iterator[Ring]:
    with Ring.create(capacity="8MiB", segment="4MiB", name="parent") as ring:
        yield ring


def in_child(work: Callable[[], object], *, leaves: Callable[[int], None] = os._exit) -> int:
    """Runs ``work`` in a forked child; its exit status, negative for a signal, 3 for an exception (printed)."""
    pid = os.fork()
    if pid == 0:
        status = 3
        faulthandler.disable()
        try:
            work()
            status = 0
        except BaseException:  # noqa: BLE001 - shown, and told by the status
            traceback.print_exc()
        finally:
            leaves(status)
    return status_of(pid)


def status_of(pid: int, timeout_s: float = 20.0) -> int:
    """Exit status of a child, which is killed if it does not end in time."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.001)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    raise AssertionError(f"the child still ran after {timeout_s} s")


def raises_forked(*calls: Callable[[], object]) -> None:
    for number, call in enumerate(calls):
        try:
            call()
        except ForkedError:
            continue
        raise AssertionError(f"call {number} did not raise ForkedError")


def test_every_call_on_an_inherited_ring_is_a_forked_error(ring: Ring) -> None:
    tensor = ring.put(torch.arange(1000))
    handle = ring.share(tensor, ring)
    plain, nothing = torch.ones(1000), torch.empty(0)
    inline = ring.share(nothing, ring)

    def work() -> None:
        raises_forked(
            lambda: ring.put(plain),
            lambda: ring.put(tensor),
            lambda: ring.put(nothing),
            lambda: ring.empty((5,)),
            lambda: ring.empty((0,)),
            lambda: ring.share(plain, "0" * 32),
            lambda: ring.share(tensor, "0" * 32),
            lambda: ring.share(nothing, "0" * 32),
            lambda: ring.open(handle),
            lambda: ring.open(bytes(handle)),
            lambda: ring.open(inline),
            lambda: ring.revoke(handle),
            lambda: ring.holds(tensor),
            ring.statistics,
            ring.reap,
            lambda: ring.peer_id,
            lambda: ring.attachment,
        )
        ring.close()
        raises_forked(lambda: ring.put(plain))

    assert in_child(work) == 0
    assert isinstance(handle, Handle)
    assert torch.equal(ring.open(handle), tensor)  # type: ignore[arg-type]


def test_every_call_on_an_inherited_reader_is_a_forked_error(ring: Ring) -> None:
    with child("quick") as writer:
        writer.run("ring = Ring.create('1MiB')")
        reader = Reader.join(writer.ask("ring.id"))
        wire = writer.ask("bytes(ring.share(torch.arange(1000), peer_id))", peer_id=reader.peer_id)
        tensor = reader.open(wire)

        def work() -> None:
            raises_forked(
                lambda: reader.open(wire),
                lambda: reader.share(tensor, "0" * 32),
                lambda: reader.revoke(Handle.from_bytes(wire)),
                lambda: reader.holds(tensor),
                reader.statistics,
                reader.reap,
                lambda: reader.peer_id,
            )
            reader.close()

        assert in_child(work) == 0
        assert digest(tensor) == digest(torch.arange(1000))
        reader.close()
        writer.run("ring.close()")


def test_every_call_on_an_inherited_channel_is_a_forked_error(ring: Ring) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    with context, context.socket(zmq.PAIR) as near, context.socket(zmq.PAIR) as far:
        near.bind("inproc://fork")
        far.connect("inproc://fork")
        one, two = Channel(near, ring), Channel(far)

        def work() -> None:
            raises_forked(
                lambda: one.send("hello", timeout_s=1),
                lambda: one.recv(timeout_s=0.1),
                lambda: one.recv_from(timeout_s=0.1),
                lambda: one.join(timeout_s=0.1),
                lambda: two.recv(timeout_s=0.1),
            )
            one.close()

        assert in_child(work) == 0
        one.send("after")
        assert two.recv(timeout_s=5) == "after"
        one.close()
        two.close()


def test_every_call_on_an_inherited_asyncio_channel_is_a_forked_error(ring: Ring) -> None:
    context = zmq.asyncio.Context()
    with context, context.socket(zmq.PAIR) as near:
        near.bind("inproc://fork-asyncio")
        channel = AsyncChannel(near, ring)

        async def calls() -> None:
            for call in (channel.send("hello", timeout_s=1), channel.recv(timeout_s=0.1), channel.join(timeout_s=0.1)):
                with pytest.raises(ForkedError):
                    await call

        assert in_child(lambda: asyncio.run(calls())) == 0
        channel.close()


@pytest.mark.parametrize("end", ["writer", "reader"])
def test_a_load_from_an_inherited_tensor_faults_and_never_reads_reused_bytes(ring: Ring, end: str) -> None:
    tensor = ring.put(pixels(1))
    reader = join_as_if_another_process(ring.id)
    opened = reader.open(bytes(ring.share(tensor, reader)))
    held = tensor if end == "writer" else opened
    assert in_child(held.sum) == -signal.SIGSEGV
    assert in_child(held.reshape(-1)[:1].tolist) == -signal.SIGSEGV
    assert digest(tensor) == digest(pixels(1))
    reader.close()


def test_a_load_from_an_inherited_array_faults(ring: Ring) -> None:
    array = ring.put(np.arange(1000))
    assert in_child(lambda: int(array[5])) == -signal.SIGSEGV
    assert array[5] == 5


def forget(*held: list[object]) -> None:
    for each in held:
        each.clear()
    gc.collect()


@pytest.mark.parametrize("leaves", [os._exit, lambda _: os.kill(os.getpid(), signal.SIGKILL)], ids=["_exit", "kill"])
@pytest.mark.parametrize("forgets", [False, True])
def test_the_end_of_a_child_changes_nothing_for_the_parent(
    ring: Ring, forgets: bool, leaves: Callable[[int], None]
) -> None:
    reader = join_as_if_another_process(ring.id)
    held: list[object] = [ring.put(pixels(seed)) for seed in range(3)]
    handle = ring.share(ring.put(pixels(3)), reader)
    before = ring.statistics()
    status = in_child(lambda: forget(held) if forgets else None, leaves=leaves)
    assert status == (0 if leaves is os._exit else -signal.SIGKILL)
    after = ring.statistics()
    assert [p.alive for p in after.processes] == [True, True]
    assert (after.blocks, after.used_nbytes) == (before.blocks, before.used_nbytes)
    assert [digest(tensor) for tensor in held] == [digest(pixels(seed)) for seed in range(3)]
    assert digest(reader.open(bytes(handle))) == digest(pixels(3))
    assert ring.id not in sweep()
    assert ring.holds(ring.put(pixels(4)))
    reader.close()


def test_a_multiprocessing_child_that_ends_normally_changes_nothing_for_the_parent(ring: Ring) -> None:
    held: list[object] = [ring.put(pixels(seed)) for seed in range(3)]
    process = multiprocessing.get_context("fork").Process(target=forget, args=(held,))
    process.start()
    process.join(20)
    assert process.exitcode == 0
    assert [digest(tensor) for tensor in held] == [digest(pixels(seed)) for seed in range(3)]
    assert len(names_of(ring.id)) == NAMES
    assert ring.statistics().blocks == 3


def test_a_child_creates_a_ring_and_joins_its_parents_anew(ring: Ring) -> None:
    backed = ring.put(pixels(1))
    with child("fork") as forked:
        forked.run("made = Ring.create('1MiB', on_full='raise'); backed = made.put(torch.arange(100))")
        own_id = forked.ask("made.id")
        assert own_id != ring.id
        forked.run("reader = Reader.join(ring_id)", ring_id=ring.id)
        peer_id = forked.ask("reader.peer_id")
        assert peer_id != ring.peer_id
        wire = bytes(ring.share(backed, peer_id))
        assert forked.ask("digest(reader.open(wire))", wire=wire) == digest(pixels(1))
        assert [process.pid for process in ring.statistics().processes] == [os.getpid(), forked.pid]
        reader = Reader.join(own_id)
        wire = forked.ask("bytes(made.share(backed, peer_id))", peer_id=reader.peer_id)
        assert digest(reader.open(wire)) == digest(torch.arange(100))
        reader.close()
        assert forked.finish() == 0
    wait_until_gone(own_id)
    assert len(names_of(ring.id)) == NAMES


def test_a_fork_in_the_middle_of_other_threads_calls_leaves_both_sides_working(ring: Ring) -> None:
    stop = threading.Event()
    failures: list[BaseException] = []

    def churn() -> None:
        try:
            while not stop.is_set():
                tensor = ring.put(torch.arange(1000))
                got = ring.open(ring.share(tensor, ring))
                assert digest(got) == digest(tensor)
        except BaseException as error:  # noqa: BLE001 - re-raised by the main thread
            failures.append(error)

    def work() -> None:
        raises_forked(lambda: ring.put(torch.ones(10)), ring.statistics)
        with Ring.create("1MiB") as own:
            assert own.holds(own.put(torch.ones(10)))

    threads = [threading.Thread(target=churn) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(10):
            assert in_child(work) == 0
    finally:
        stop.set()
        for thread in threads:
            thread.join(20)
    assert failures == []
    wait_until(lambda: ring.statistics().blocks == 0)


@pytest.mark.parametrize("held", ["nothing", "a tensor", "an unopened handle"])
def test_a_parent_dies_by_sigkill_while_its_forked_child_lives_and_the_lock_is_free_within_a_second(held: str) -> None:
    with child("quick") as parent:
        parent.run(
            """
ring = Ring.create("4MiB")
tensor = ring.put(pixels(1)) if held == "a tensor" else None
handle = ring.share(pixels(1), ring) if held == "an unopened handle" else None
down, up = os.pipe()
forked = os.fork()
if forked == 0:
    os.close(up)
    os.read(down, 1)  # until the test kills it
    os._exit(0)
""",
            held=held,
        )
        ring_id, forked = parent.ask("(ring.id, forked)")
        try:
            assert len(names_of(ring_id)) == NAMES
            assert ring_id not in sweep()
            # The child would see the pipe's end; stop it, so that it is alive whatever happens.
            stop(forked)
            parent.kill()
            killed = time.monotonic()
            wait_until(lambda: ring_id in sweep(), timeout_s=1.0)
            assert time.monotonic() - killed < 1.0
            assert names_of(ring_id) == []
            os.kill(forked, 0)  # it lives
        finally:
            os.kill(forked, signal.SIGKILL)


def test_a_child_of_a_reader_does_not_keep_the_readers_leases_alive(ring: Ring) -> None:
    with child("quick") as reader:
        reader.run("reader = Reader.join(ring_id)", ring_id=ring.id)
        wire = bytes(ring.share(pixels(1), reader.ask("reader.peer_id")))
        reader.run("tensor = reader.open(wire)\nforked = os.fork()\nif forked == 0: time.sleep(60)", wire=wire)
        forked = reader.ask("forked")
        try:
            wait_until(lambda: [p.leased_blocks for p in ring.statistics().processes][1:] == [1])
            reader.kill()
            wait_until(lambda: ring.reap() == 1, timeout_s=1.0)
            wait_until(lambda: ring.statistics().blocks == 0, timeout_s=1.0)
            os.kill(forked, 0)
        finally:
            os.kill(forked, signal.SIGKILL)
