"""Channels with many peers, and with peers that restart, vanish, or send something else."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from shmtransport import (
    Channel,
    ClosedError,
    PeerDeadError,
    Ring,
    StaleHandleError,
    WaitTimeoutError,
)
from tests.processes.channels import CLOSE_THERE, channel_there, introduce, pair, socket_here
from tests.processes.children import Child, child, digest, names_of, pixels, wait_until_gone
from tests.support import wait_until

MIB = 1 << 20


@pytest.fixture(scope="module")
def engine() -> Iterator[Child]:
    with child("quick") as engine:
        yield engine


@pytest.fixture(scope="module")
def worker() -> Iterator[Child]:
    with child("quick") as worker:
        yield worker


@pytest.fixture
def ring() -> Iterator[Ring]:
    with Ring.create(capacity="32MiB", segment="16MiB", name="here") as ring:
        yield ring


def received(process: Child, digest_of: str = "message") -> Any:
    """The next message of a child's channel, by its digest."""
    process.run("message = channel.recv(timeout_s=20)")
    answer = process.ask(f"digest({digest_of})")
    process.run("message = None")
    return answer


# -- many peers -----------------------------------------------------------------------------------------------------


def test_one_write_serves_several_readers(ring: Ring, tmp_path: Path, engine: Child, worker: Child) -> None:
    address = f"ipc://{tmp_path}/router"
    with (
        socket_here(zmq.ROUTER, address) as socket,
        channel_there(engine, address, kind="DEALER", identity=b"engine"),
        channel_there(worker, address, kind="DEALER", identity=b"worker"),
        Channel(socket, ring) as channel,
    ):
        for process in (engine, worker):
            process.run("channel.send('here I am')")
        assert {channel.recv_from(timeout_s=20) for _ in range(2)} == {
            (b"engine", "here I am"),
            (b"worker", "here I am"),
        }
        # Before the join: inline for both.
        channel.send(pixels(1), to=[b"engine", b"worker"])
        assert [received(process) for process in (engine, worker)] == [digest(pixels(1))] * 2
        assert channel.join([b"engine", b"worker"], timeout_s=20)
        before = ring.statistics().writer
        payload = [pixels(seed, 4 * MIB) for seed in (2, 3)]
        channel.send(payload, to=[b"engine", b"worker"])
        for process in (engine, worker):
            process.run("message = channel.recv(timeout_s=20)")
            assert process.ask("[digest(tensor) for tensor in message]") == [digest(tensor) for tensor in payload]
        after = ring.statistics().writer
        assert after.written_nbytes - before.written_nbytes == 8 * MIB
        assert after.copied_nbytes - before.copied_nbytes == 8 * MIB
        assert after.shared - before.shared == 2
        for process in (engine, worker):
            process.run("message = None")
        wait_until(lambda: ring.statistics().blocks == 0)


def test_joined_and_not_joined_peers_of_one_send_both_get_the_bytes(
    ring: Ring, tmp_path: Path, engine: Child, worker: Child
) -> None:
    address = f"ipc://{tmp_path}/router"
    with (
        socket_here(zmq.ROUTER, address) as socket,
        channel_there(engine, address, kind="DEALER", identity=b"engine"),
        channel_there(worker, address, kind="DEALER", identity=b"worker"),
        Channel(socket, ring) as channel,
    ):
        for process in (engine, worker):
            process.run("channel.send('here I am')")
        for _ in range(2):
            channel.recv_from(timeout_s=20)
        engine.start("run", "message = channel.recv(timeout_s=20)")
        assert channel.join(b"engine", timeout_s=20)
        channel.send(pixels(1), to=[b"engine", b"worker"])
        engine.answer()
        assert engine.ask("digest(message)") == digest(pixels(1))
        assert received(worker) == digest(pixels(1))
        statistics = channel.statistics()
        assert (statistics.handles, statistics.inline) == (1, {"not_joined": 1})
        engine.run("message = None")


def test_several_writers_send_to_one_reader(tmp_path: Path, engine: Child, worker: Child) -> None:
    address = f"ipc://{tmp_path}/router"
    with (
        socket_here(zmq.ROUTER, address) as socket,
        channel_there(engine, address, kind="DEALER", identity=b"engine", capacity="8MiB"),
        channel_there(worker, address, kind="DEALER", identity=b"worker", capacity="8MiB"),
        Channel(socket) as channel,
    ):
        for process in (engine, worker):
            process.run("channel.send('here I am')")
            channel.recv_from(timeout_s=20)
            process.run("assert channel.join(timeout_s=20)")
        for seed in range(3):
            engine.run("channel.send(pixels(seed))", seed=seed)
            worker.run("channel.send(pixels(seed))", seed=seed + 10)
            got = dict(channel.recv_from(timeout_s=20) for _ in range(2))
            assert digest(got[b"engine"]) == digest(pixels(seed))
            assert digest(got[b"worker"]) == digest(pixels(seed + 10))
            got.clear()
        for process in (engine, worker):
            assert process.ask("(channel.statistics().handles, channel.statistics().inline)") == (3, {})


def test_a_process_in_the_middle_forwards_by_handle_after_introducing_its_peer(
    ring: Ring, tmp_path: Path, engine: Child, worker: Child
) -> None:
    """Here the writer, engine in the middle, worker at the end; worker never hears of the writer but from engine."""
    address = f"ipc://{tmp_path}/forward"
    with pair(engine, tmp_path, ring) as channel:
        introduce(channel, engine)
        engine.run(
            "onward_socket = context.socket(zmq.PAIR); onward_socket.linger = 0; onward_socket.bind(address)\n"
            "onward = Channel(onward_socket)",
            address=address,
        )
        with channel_there(worker, address):
            channel.send(pixels(1))
            engine.run("kept = channel.recv(timeout_s=20); onward.send(kept)")
            assert received(worker) == digest(pixels(1))
            assert engine.ask("onward.statistics().inline") == {"not_joined": 1}  # and the introduction went with it
            worker.run("channel.send('joined by now')")
            engine.run("assert onward.recv(timeout_s=20) == 'joined by now'")
            for seed in (2, 3):
                channel.send({"image": pixels(seed)})
                engine.run("kept = channel.recv(timeout_s=20)['image']; onward.send([kept[1:], kept]); kept = None")
                assert received(worker, "message[1]") == digest(pixels(seed))
            assert engine.ask("(onward.statistics().handles, onward.statistics().inline)") == (4, {"not_joined": 1})
            writer, *readers = ring.statistics().processes
            assert writer.copied_nbytes == 3 * MIB
            assert {reader.pid for reader in readers} == {engine.pid, worker.pid}
            wait_until(lambda: ring.statistics().blocks == 0)
            engine.run("onward.close(); onward_socket.close()")


# -- trouble --------------------------------------------------------------------------------------------------------


def test_a_peer_that_restarts_gets_the_bytes_first_and_then_handles_again(ring: Ring, tmp_path: Path) -> None:
    address = f"ipc://{tmp_path}/restart"
    with socket_here(zmq.DEALER, address) as socket, Channel(socket, ring) as channel:
        for tenant in range(2):
            with child("quick") as engine:
                engine.run("", address=address)
                with channel_there(engine, address, kind="DEALER"):
                    before = channel.statistics()
                    channel.send(pixels(1))
                    assert received(engine) == digest(pixels(1))
                    middle = channel.statistics()
                    assert (middle.handles, sum(middle.inline.values())) == (
                        before.handles,
                        sum(before.inline.values()) + 1,
                    )
                    engine.run("channel.send('joined by now')")
                    assert channel.recv(timeout_s=20) == "joined by now"
                    channel.send(pixels(2))
                    assert received(engine) == digest(pixels(2))
                    after = channel.statistics()
                    assert (after.handles, after.inline) == (before.handles + 1, middle.inline), tenant
        wait_until(lambda: ring.statistics().blocks == 0)


def test_a_peer_that_is_killed_and_restarts_is_reaped_and_served_again(ring: Ring, tmp_path: Path) -> None:
    address = f"ipc://{tmp_path}/killed"
    with socket_here(zmq.DEALER, address) as socket, Channel(socket, ring) as channel:
        for _ in range(2):
            with child("quick") as engine:
                engine.run("")
                opening = channel_there(engine, address, kind="DEALER")
                opening.__enter__()
                channel.send(pixels(1))
                assert received(engine) == digest(pixels(1))
                engine.run("channel.send('joined by now')")
                assert channel.recv(timeout_s=20) == "joined by now"
                channel.send(pixels(2))
                engine.run("kept = channel.recv(timeout_s=20)")
                assert ring.statistics().blocks == 1
                engine.kill()
            ring.reap()
            wait_until(lambda: ring.statistics().blocks == 0)


def test_a_writer_that_restarts_leaves_nothing_mapped_in_the_reader_that_stays(tmp_path: Path) -> None:
    address = f"ipc://{tmp_path}/writers"
    gone = []
    with socket_here(zmq.DEALER, address) as socket, Channel(socket) as channel:
        for _ in range(3):
            with child("quick") as writer, channel_there(writer, address, kind="DEALER", capacity="8MiB"):
                writer.run("channel.send('here I am')")
                assert channel.recv(timeout_s=20) == "here I am"
                writer.run("assert channel.join(timeout_s=20); channel.send(pixels(1))")
                assert digest(channel.recv(timeout_s=20)) == digest(pixels(1))
                gone.append(writer.ask("ring.id"))
        for ring_id in gone[:-1]:
            wait_until(lambda ring_id=ring_id: ring_id not in Path("/proc/self/maps").read_text())  # type: ignore[misc]
            assert names_of(ring_id) == []
    for ring_id in gone:
        wait_until_gone(ring_id)


def test_sending_to_an_unknown_routing_id_is_a_dead_peer_and_leaves_no_lease(
    ring: Ring, tmp_path: Path, engine: Child
) -> None:
    address = f"ipc://{tmp_path}/router"
    with (
        socket_here(zmq.ROUTER, address) as socket,
        channel_there(engine, address, kind="DEALER", identity=b"engine"),
        Channel(socket, ring) as channel,
    ):
        with pytest.raises(PeerDeadError, match="no peer with routing id b'nobody' is connected"):
            channel.send(pixels(1), to=b"nobody")
        engine.run("channel.send('here I am')")
        channel.recv_from(timeout_s=20)
        engine.start("run", "message = channel.recv(timeout_s=20)")
        assert channel.join(b"engine", timeout_s=20)
        with pytest.raises(PeerDeadError):
            channel.send(pixels(1), to=[b"nobody", b"engine"])
        channel.send(pixels(2), to=b"engine")
        engine.answer()
        assert engine.ask("digest(message)") in (digest(pixels(1)), digest(pixels(2)))
        engine.run("message = None\nwhile socket.poll(100): channel.recv(timeout_s=20)")
        wait_until(lambda: ring.statistics().blocks == 0)


def test_a_peer_that_has_gone_is_a_dead_peer_and_its_handles_are_revoked(
    ring: Ring, tmp_path: Path, engine: Child
) -> None:
    address = f"ipc://{tmp_path}/router"
    with socket_here(zmq.ROUTER, address) as socket, Channel(socket, ring) as channel:
        with channel_there(engine, address, kind="DEALER", identity=b"engine"):
            engine.run("channel.send('here I am')")
            channel.recv_from(timeout_s=20)
            engine.start("run", "message = channel.recv(timeout_s=20)")
            assert channel.join(b"engine", timeout_s=20)
            channel.send(pixels(1), to=b"engine")
            engine.answer()

        def fails() -> bool:
            try:
                channel.send(pixels(2), to=b"engine")
            except PeerDeadError:
                return True
            return False

        wait_until(fails, timeout_s=20)
        wait_until(lambda: ring.statistics().blocks == 0)


def test_the_handles_of_a_message_that_the_socket_does_not_take_are_revoked(ring: Ring, tmp_path: Path) -> None:
    with child("quick") as engine:
        address = f"ipc://{tmp_path}/slow"
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        with context, context.socket(zmq.PAIR) as socket:
            socket.linger = 0
            socket.sndhwm = 1
            socket.bind(address)
            engine.run("")
            with Channel(socket, ring) as channel:
                opening = channel_there(engine, address)
                opening.__enter__()
                introduce(channel, engine)
                engine.run("socket.close(); context.term()")

                def send_until_full() -> None:
                    for _ in range(5):
                        channel.send(ring.put(pixels(1)), timeout_s=0.2)

                with pytest.raises(WaitTimeoutError, match="room in the socket"):
                    send_until_full()
                taken = channel.statistics().sent - 1
                assert ring.statistics().writer.revoked == 1
                assert ring.statistics().writer.shared == taken + 1
                engine.kill()
        ring.reap()
        wait_until(lambda: ring.statistics().blocks == 0)


def test_recv_without_a_message_times_out(ring: Ring, tmp_path: Path, engine: Child) -> None:
    with pair(engine, tmp_path, ring) as channel:
        started = time.monotonic()
        with pytest.raises(WaitTimeoutError, match="waited for a message"):
            channel.recv(timeout_s=0.1)
        assert 0.09 < time.monotonic() - started < 5
        with pytest.raises(TimeoutError):
            channel.recv(timeout_s=0)


def test_a_message_whose_block_is_gone_is_stale_and_the_next_one_is_fine(
    ring: Ring, tmp_path: Path, engine: Child
) -> None:
    with pair(engine, tmp_path, ring) as channel:
        introduce(channel, engine)
        messages = channel._exchange.encode([pixels(1)], [b""])
        channel._socket.send_multipart(messages[0].frames)
        messages[0].revoke([b""])
        channel.send(pixels(2))
        with pytest.raises(AssertionError, match=StaleHandleError.__name__):
            engine.run("channel.recv(timeout_s=20)")
        assert received(engine) == digest(pixels(2))
        wait_until(lambda: ring.statistics().blocks == 0)


def test_a_closed_channel_raises_and_leaves_socket_and_ring_alone(ring: Ring, tmp_path: Path, engine: Child) -> None:
    with pair(engine, tmp_path, ring) as channel:
        introduce(channel, engine)
        channel.close()
        channel.close()
        for call in (
            lambda: channel.send("hello"),
            lambda: channel.recv(timeout_s=1),
            lambda: channel.recv_from(timeout_s=1),
            lambda: channel.join(timeout_s=1),
        ):
            with pytest.raises(ClosedError, match="the channel was closed"):
                call()
        assert not ring.closed
        assert not channel._socket.closed
        again = Channel(channel._socket, ring)
        again.send(pixels(1))
        assert received(engine) == digest(pixels(1))


@pytest.mark.posix  # a memfd ring has no name once its writer has left
def test_a_received_tensor_outlives_its_channel(tmp_path: Path, engine: Child) -> None:
    with pair(engine, tmp_path, capacity="8MiB") as channel:
        introduce(channel, engine)
        engine.run("channel.send(pixels(1))")
        got = channel.recv(timeout_s=20)
        ring_id = engine.ask("ring.id")
    assert names_of(ring_id)
    assert digest(got) == digest(pixels(1))
    del got
    wait_until_gone(ring_id)
    assert CLOSE_THERE
