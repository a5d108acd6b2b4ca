"""`Channel.join`, where something is in its way: objects ahead of the answer, a peer that is not there yet or anew."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq
import zmq.asyncio

from shmtransport import Channel, PeerDeadError, Ring, WaitTimeoutError
from shmtransport.asyncio import Channel as AsyncChannel
from tests.processes.channels import channel_there, socket_here
from tests.processes.children import Child, child, digest, pixels
from tests.support import wait_until

MANY = 1500
"""More than a channel keeps that only sends, and than a socket's default queue at one end."""


@pytest.fixture
def engine() -> Iterator[Child]:
    with child("quick") as engine:
        yield engine


@pytest.fixture
def ring() -> Iterator[Ring]:
    with Ring.create("16MiB", name="here") as ring:
        yield ring


def test_the_answer_is_heard_behind_any_number_of_objects(ring: Ring, tmp_path: Path, engine: Child) -> None:
    address = f"ipc://{tmp_path}/pair"
    with (
        socket_here(zmq.PAIR, address) as socket,
        Channel(socket, ring) as channel,
        channel_there(engine, address),
    ):
        engine.run(f"for number in range({MANY}): channel.send(number)")
        engine.start("run", "message = channel.recv(timeout_s=20)")
        assert channel.join(timeout_s=20)
        channel.send(pixels(1))
        engine.answer()
        assert engine.ask("digest(message)") == digest(pixels(1))
        assert channel.statistics().handles == 1
        assert [channel.recv(timeout_s=5) for _ in range(MANY)] == list(range(MANY))


def test_objects_that_come_for_ever_do_not_move_the_deadline(ring: Ring, tmp_path: Path) -> None:
    """From a peer that never answers: its channel only sends, and hears nothing."""
    address = f"ipc://{tmp_path}/pair"
    with socket_here(zmq.PAIR, address) as socket, Channel(socket, ring) as channel:
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        with context, context.socket(zmq.PAIR) as theirs:
            theirs.linger = 0
            theirs.connect(address)
            with Channel(theirs) as peer:
                peer._pump = lambda: None  # type: ignore[method-assign]
                for number in range(MANY):
                    peer.send(number)
                with pytest.raises(WaitTimeoutError, match="join the ring"):
                    channel.join(timeout_s=0)
                with pytest.raises(WaitTimeoutError, match="join the ring"):
                    channel.join(timeout_s=0.2)
                assert [channel.recv(timeout_s=5) for _ in range(MANY)] == list(range(MANY))


def test_a_peer_that_connects_later_is_introduced_then(ring: Ring, tmp_path: Path, engine: Child) -> None:
    address = f"ipc://{tmp_path}/router"
    with socket_here(zmq.ROUTER, address) as socket, Channel(socket, ring) as channel:
        with pytest.raises(WaitTimeoutError):
            channel.join(b"engine", timeout_s=0.05)
        with channel_there(engine, address, kind="DEALER", identity=b"engine"):
            engine.start("run", "message = channel.recv(timeout_s=20)")
            assert channel.join(b"engine", timeout_s=20)
            channel.send(pixels(1), to=b"engine")
            engine.answer()
            assert engine.ask("digest(message)") == digest(pixels(1))
        assert channel.statistics().handles == 1


def test_a_new_process_under_an_address_is_introduced_anew(ring: Ring, tmp_path: Path) -> None:
    address = f"ipc://{tmp_path}/router"
    with socket_here(zmq.ROUTER, address) as socket, Channel(socket, ring) as channel:
        for tenant in range(2):
            with child("quick") as engine, channel_there(engine, address, kind="DEALER", identity=b"engine"):
                engine.start("run", "message = channel.recv(timeout_s=20)")
                assert channel.join(b"engine", timeout_s=20)
                channel.send(pixels(tenant), to=b"engine")
                engine.answer()
                assert engine.ask("digest(message)") == digest(pixels(tenant))
            assert channel.statistics().handles == tenant + 1
            wait_until(lambda: is_gone(channel))


def is_gone(channel: Channel) -> bool:
    try:
        channel.send("are you there?", to=b"engine")
    except PeerDeadError:
        return True
    return False


def test_with_asyncio_too(ring: Ring, tmp_path: Path, engine: Child) -> None:
    """An object is ahead of the answer, of a peer that was not there when it was first asked."""
    address = f"ipc://{tmp_path}/router"

    async def talk() -> None:
        with zmq.asyncio.Context() as context, context.socket(zmq.ROUTER) as socket:
            socket.linger = 0
            socket.bind(address)
            async with AsyncChannel(socket, ring) as channel:
                with pytest.raises(WaitTimeoutError):
                    await channel.join(b"engine", timeout_s=0.05)
                with channel_there(engine, address, kind="DEALER", identity=b"engine"):
                    engine.run("channel.send('here I am')")
                    engine.start("run", "message = channel.recv(timeout_s=20)")
                    assert await channel.join(b"engine", timeout_s=20)
                    await channel.send(pixels(1), to=b"engine")
                    engine.answer()
                    assert engine.ask("digest(message)") == digest(pixels(1))
                    assert await channel.recv(timeout_s=5) == "here I am"
                assert channel.statistics().handles == 1

    asyncio.run(talk())


def test_an_asyncio_channel_that_only_sends_leaves_most_in_the_socket(ring: Ring, tmp_path: Path) -> None:
    async def talk() -> None:
        context = zmq.asyncio.Context()
        with context, context.socket(zmq.PAIR) as one, context.socket(zmq.PAIR) as two:
            one.bind(f"inproc://{tmp_path.name}")
            two.connect(f"inproc://{tmp_path.name}")
            async with AsyncChannel(one) as channel, AsyncChannel(two) as peer:
                for number in range(MANY):
                    await peer.send(number)
                await channel.send("a word")
                assert len(channel._exchange.inbox) == 1000
                assert [await channel.recv(timeout_s=5) for _ in range(MANY)] == list(range(MANY))

    asyncio.run(talk())
