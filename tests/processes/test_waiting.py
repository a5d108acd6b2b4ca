"""Each call that waits for another process comes back by its deadline, whatever that one does."""

import asyncio
import contextlib
import os
import select
import signal
import time
from collections.abc import AsyncIterator

import msgspec
import pytest
import torch
import zmq
import zmq.asyncio

from shmtransport import HandleError, Reader, Ring, WaitTimeoutError, codec, messages
from shmtransport.asyncio import Channel

Socket = zmq.asyncio.Socket

HANDLES, NBYTES, DEATHS = 8, 64 << 10, 100
P99 = DEATHS * 99 // 100 - 1
"""Where that stands among the sorted."""


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
        body, _ = codec.Encoder().encode(torch.ones(100), lambda _: handle)
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


def forked_reader(ring: Ring) -> int:
    """Pid of a reader that has opened half of its handles, which are all that the ring holds, and then sleeps."""
    up, down = os.pipe()
    asked, told = os.pipe()
    pid = os.fork()
    if pid == 0:
        reader = Reader.join(ring.id)
        os.write(down, bytes.fromhex(reader.peer_id))
        held = []
        for _ in range(HANDLES // 2):
            held.append(reader.open(os.read(asked, 1000)))
            os.write(down, b"!")
        time.sleep(60)
        os._exit(0)
    try:
        peer_id = os.read(up, 16).hex()
        wires = [bytes(ring.share(torch.zeros(NBYTES, dtype=torch.uint8), peer_id)) for _ in range(HANDLES)]
        for wire in wires[: HANDLES // 2]:
            os.write(told, wire)
            assert os.read(up, 1) == b"!"
    finally:
        for fd in (up, down, asked, told):
            os.close(fd)
    return pid


def test_all_bytes_of_a_killed_reader_are_back_within_50_ms() -> None:
    """From the moment at which the kernel says that it is dead; it stays a zombie until all is back."""
    took_s: list[float] = []
    since_kill_s: list[float] = []
    with Ring.create(HANDLES * NBYTES, segment=HANDLES * NBYTES, on_full="raise") as ring:
        for _ in range(DEATHS):
            pid = forked_reader(ring)
            pidfd = os.pidfd_open(pid)
            assert ring.attachment.core.room()[0] == HANDLES * NBYTES
            killed = time.monotonic()
            os.kill(pid, signal.SIGKILL)
            assert select.select([pidfd], [], [], 20)[0]
            died = time.monotonic()
            while ring.attachment.core.room()[0]:
                ring.reap()
                assert time.monotonic() - died < 5
            took_s.append(time.monotonic() - died)
            since_kill_s.append(time.monotonic() - killed)
            os.waitpid(pid, 0)
            os.close(pidfd)
    for what, samples_s in (("since its death", took_s), ("since the signal", since_kill_s)):
        samples_s.sort()
        print(
            f"all bytes back {what}: p50 {samples_s[DEATHS // 2] * 1000:.2f} ms, "
            f"p99 {samples_s[P99] * 1000:.2f} ms, at most {samples_s[-1] * 1000:.2f} ms"
        )
    assert took_s[P99] < 0.050
