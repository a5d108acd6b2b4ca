"""Each call that waits for another process comes back by its deadline, whatever that one does."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import msgspec
import pytest
import torch
import zmq
import zmq.asyncio

from shmtransport import HandleError, Ring, WaitTimeoutError, codec, messages
from shmtransport.asyncio import Channel

Socket = zmq.asyncio.Socket


@contextlib.asynccontextmanager
async def full() -> AsyncIterator[tuple[Channel, Socket]]:
    """An asyncio channel whose peer, a plain socket, reads nothing, until no more message goes out."""
    context = zmq.asyncio.Context()
    with context, context.socket(zmq.PAIR) as near, context.socket(zmq.PAIR) as far:
        near.sndhwm = far.rcvhwm = 1
        near.bind("inproc://full")
        far.connect("inproc://full")
        async with Channel(near) as channel:
            with contextlib.suppress(WaitTimeoutError):
                for _ in range(100):
                    await channel.send("one more", timeout_s=0.2)
                raise AssertionError("the socket is never full")
            yield channel, far


async def read_all(socket: Socket) -> list[int]:
    """The kinds of all messages that a socket has, or gets within a tenth of a second."""
    kinds = []
    while await socket.poll(100):
        kinds.append((await socket.recv_multipart())[0][2])
    return kinds


def test_asyncio_recv_does_not_wait_until_its_answer_is_read() -> None:
    """A handle of a ring that it has not joined: it asks for the ring, but its peer's socket takes nothing."""

    async def talk(ring: Ring) -> None:
        handle = ring.share(torch.ones(100), ring)
        body, _ = codec.encode(torch.ones(100), lambda _: handle)
        async with full() as (channel, far):
            await far.send_multipart(messages.envelope(messages.OBJECT, body))
            async with asyncio.timeout(10):
                with pytest.raises(HandleError, match="of a ring joined here"):
                    await channel.recv(timeout_s=5)
            await read_all(far)
            with pytest.raises(WaitTimeoutError):
                await channel.recv(timeout_s=0.1)
            assert messages.AGAIN in await read_all(far)
        ring.revoke(handle)

    with Ring.create("1MiB") as ring:
        asyncio.run(talk(ring))


def test_an_answer_that_finds_no_room_in_the_socket_goes_out_later() -> None:
    async def talk(ring: Ring) -> None:
        introduction = messages.Introduction(ring.id, messages.Host.here())
        async with full() as (channel, far):
            await far.send_multipart(messages.envelope(messages.RING, msgspec.msgpack.encode(introduction)))
            with pytest.raises(WaitTimeoutError):
                await channel.recv(timeout_s=0.5)
            assert messages.JOINED not in await read_all(far)
            with pytest.raises(WaitTimeoutError):
                await channel.recv(timeout_s=0.1)
            assert messages.JOINED in await read_all(far)

    with Ring.create("1MiB") as ring:
        asyncio.run(talk(ring))
