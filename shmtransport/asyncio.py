"""`Channel` for asyncio: the same objects, handshake and guarantees on a ``zmq.asyncio`` socket.

Walking the object, copying its tensors and joining rings happen in a thread of the channel, never on the event
loop. Opening handles is done on the loop: it copies nothing.
"""

import asyncio
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Self

import zmq
import zmq.asyncio

from shmtransport.channel import ONLY_PEER, ROUTER_SLICE_S, addressed, prepare
from shmtransport.errors import PeerDeadError, WaitTimeoutError
from shmtransport.exchange import Exchange
from shmtransport.ring import Ring
from shmtransport.traffic import ChannelStatistics, Frames, Message


class Channel:
    """As `shmtransport.Channel`, with ``await``. One event loop, one task receiving; any number may send.

    Sends are put on the socket in the order in which their copies finish. A cancelled send is revoked. Not
    thread-safe, like its loop; make a new one in a forked child, where this one raises `ForkedError`.
    """

    def __init__(
        self,
        socket: zmq.asyncio.Socket,
        ring: Ring | None = None,
        *,
        threshold: int | str = "64KiB",
        name: str = "",
    ) -> None:
        self._routes = prepare(socket)
        self._socket = socket
        self._exchange = Exchange(ring, threshold, name)
        self._thread = ThreadPoolExecutor(1, "shmtransport")
        self._receiving = asyncio.Lock()
        self._kept: list[zmq.Frame] | None = None
        self._sending = 0  # tasks that wait for the socket to take something

    async def send(self, value: object, to: bytes | Iterable[bytes] | None = None, *, timeout_s: float = 30.0) -> None:
        """See `shmtransport.Channel.send`."""
        self._exchange.check()
        peers = addressed(self._routes, to)
        messages: list[Message] = []
        try:
            async with asyncio.timeout(timeout_s):
                await self._pump()
                messages = await self._encode(value, peers)
                while messages:
                    await self._send_message(messages[0])
                    messages.pop(0)
                await self._flush()
        except TimeoutError:
            raise WaitTimeoutError("waited for room in the socket until the deadline") from None
        finally:
            for message in messages[1:]:
                message.revoke(message.peers)

    async def _encode(self, value: object, peers: list[bytes]) -> list[Message]:
        """In the thread. The copy cannot be interrupted: if this task is cancelled, its result is revoked."""
        encoding = asyncio.get_running_loop().run_in_executor(self._thread, self._exchange.encode, value, peers)
        try:
            return await asyncio.shield(encoding)
        except asyncio.CancelledError:
            encoding.add_done_callback(_revoke_all)
            raise

    async def recv(self, type: Any = Any, *, timeout_s: float | None = None) -> Any:
        """See `shmtransport.Channel.recv`."""
        return (await self.recv_from(type, timeout_s=timeout_s))[1]

    async def recv_from(self, type: Any = Any, *, timeout_s: float | None = None) -> tuple[bytes, Any]:
        """See `shmtransport.Channel.recv_from`."""
        self._exchange.check()
        try:
            async with asyncio.timeout(timeout_s):
                while not self._exchange.inbox:
                    await self._hear_one(until=lambda: bool(self._exchange.inbox))
        except TimeoutError:
            raise WaitTimeoutError("waited for a message until the deadline") from None
        try:
            return self._exchange.take(type)
        finally:
            await self._flush()

    async def join(self, to: bytes | Iterable[bytes] | None = None, *, timeout_s: float = 10.0) -> bool:
        """See `shmtransport.Channel.join`."""
        self._exchange.check()
        peers = addressed(self._routes, to)

        def all_have_answered() -> bool:
            return all(self._exchange.gets_handles(peer) is not None for peer in peers)

        try:
            async with asyncio.timeout(timeout_s):
                while not all_have_answered():
                    for peer in peers:
                        self._exchange.meet(peer)
                    with suppress(TimeoutError):  # nothing tells a ROUTER that a peer has connected
                        async with asyncio.timeout(ROUTER_SLICE_S if self._routes else None):
                            await self._hear_one(until=all_have_answered)
        except TimeoutError:
            raise WaitTimeoutError("waited for the peer to join the ring until the deadline") from None
        return all(map(self._exchange.gets_handles, peers))

    def statistics(self) -> ChannelStatistics:
        """See `shmtransport.Channel.statistics`."""
        return self._exchange.statistics()

    def close(self) -> None:
        """See `shmtransport.Channel.close`. Waits for a copy that is under way; ``async with`` lets the loop run
        meanwhile."""
        self._thread.shutdown()
        self._exchange.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        try:
            await asyncio.to_thread(self._thread.shutdown)
        finally:
            self.close()

    # -- the socket -----------------------------------------------------------------------------------------

    async def _send_message(self, message: Message) -> None:
        unsent = list(message.peers)
        try:
            while unsent:
                await self._send_frames(unsent[0], message.frames)
                unsent.pop(0)
                self._exchange.sent(message)
        finally:
            if unsent:
                message.revoke(unsent)

    async def _send_frames(self, peer: bytes, frames: Frames, option: int = 0) -> None:
        self._sending += 1
        try:
            await self._socket.send_multipart([peer, *frames] if self._routes else frames, option)
        except zmq.ZMQError as error:
            if error.errno == zmq.EHOSTUNREACH:
                raise self._exchange.peers.lost(peer) from error
            raise
        finally:
            self._sending -= 1

    async def _flush(self) -> None:
        """Sends waiting answers and introductions, as far as the socket takes them at once.

        Not while a task sends: the socket would make them wait behind that one's message.
        """
        outbox = self._exchange.outbox
        while outbox and not self._sending:
            peer, frames = outbox[0]
            try:
                await self._send_frames(peer, frames, zmq.NOBLOCK)
            except zmq.Again:
                return
            except PeerDeadError:
                pass  # who comes next is introduced anew
            outbox.pop(0)

    async def _pump(self) -> None:
        if not self._routes:
            self._exchange.meet(ONLY_PEER)
        await self._flush()
        while self._exchange.has_room and await self._hear_one():
            continue

    async def _hear_one(self, *, until: Callable[[], bool] | None = None) -> bool:
        """Takes one message from the socket; False if there was none, or another task is receiving. Waits for one where
        it is told ``until`` when: not once another task has brought it about."""
        if not self._routes:
            self._exchange.meet(ONLY_PEER)
        await self._flush()
        if self._receiving.locked() and until is None:
            return False
        async with self._receiving:
            if until is not None and until():
                return True
            if until is None and self._kept is None and not await self._socket.poll(0):
                return False
            while until is not None and self._has_to_say():
                either = zmq.POLLIN | zmq.POLLOUT
                ready: Any = await self._socket.poll(None, either)  # type: ignore[call-arg]  # a wrong stub
                if ready & zmq.POLLIN:
                    break
                await self._flush()
            frames = [part.buffer for part in await self._receive()]
            peer = bytes(frames.pop(0)) if self._routes else ONLY_PEER
            await self._hear(peer, frames)
        await self._flush()
        return True

    def _has_to_say(self) -> bool:
        """Whether something is to be said that the socket cannot take yet: it is full, or nobody has connected."""
        return self._kept is None and bool(self._exchange.outbox) and not self._routes

    async def _receive(self) -> list[zmq.Frame]:
        """The next message. One that arrives together with the end of the wait for it is there for the next call."""
        if self._kept is not None:
            kept, self._kept = self._kept, None
            return kept
        receiving = asyncio.ensure_future(self._socket.recv_multipart(copy=False))
        try:
            return await receiving
        except asyncio.CancelledError:
            if receiving.done() and not receiving.cancelled() and receiving.exception() is None:
                self._kept = receiving.result()
            raise

    async def _hear(self, peer: bytes, frames: list[memoryview]) -> None:
        if not self._exchange.is_introduction(frames):
            self._exchange.hear(peer, frames)
            return
        # Joining maps every page of a ring: milliseconds that the loop has not got. The introduction is not lost with
        # the patience of who waits here.
        await asyncio.shield(
            asyncio.get_running_loop().run_in_executor(self._thread, self._exchange.hear, peer, frames)
        )


def _revoke_all(encoding: "asyncio.Future[list[Message]]") -> None:
    if not encoding.cancelled() and encoding.exception() is None:
        for message in encoding.result():
            message.revoke(message.peers)
