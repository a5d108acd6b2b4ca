"""Objects over a pyzmq socket, their tensors by handle. The asyncio twin is `shmtransport.asyncio`."""

import time
from collections.abc import Iterable
from typing import Any, Final, Self

import zmq

from shmtransport.errors import ConfigError, PeerDeadError, WaitTimeoutError
from shmtransport.exchange import Exchange
from shmtransport.ring import Ring
from shmtransport.traffic import ChannelStatistics, Frames, Message

_KINDS: Final = {zmq.PAIR: "PAIR", zmq.DEALER: "DEALER", zmq.ROUTER: "ROUTER"}

# Plain numbers: these are asked for with every message.
_NOBLOCK: Final = int(zmq.NOBLOCK)
_EVENTS: Final = int(zmq.EVENTS)
_POLLIN: Final = int(zmq.POLLIN)

# How often a ROUTER is asked again whose peer is full, or has not connected yet.
ROUTER_SLICE_S: Final = 0.002

ONLY_PEER: Final = b""
"""What the one peer of a PAIR or DEALER socket is called."""


def prepare(socket: zmq.Socket[Any]) -> bool:
    """Checks the socket's type; True for a ROUTER, which is told to report peers that are gone and to let a new process
    take over a routing id: else it ignores one that comes before it has noticed the end of the old one."""
    kind = zmq.SocketType(int(socket.getsockopt(zmq.TYPE)))
    if kind not in _KINDS:
        raise ConfigError(
            "socket",
            kind.name,
            f"one of {', '.join(_KINDS.values())}: the join needs a way back",
        )
    if kind == zmq.ROUTER:
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        socket.setsockopt(zmq.ROUTER_HANDOVER, 1)
    return kind == zmq.ROUTER


def addressed(routes: bool, to: bytes | Iterable[bytes] | None) -> list[bytes]:
    """The peers that a call's ``to`` means."""
    if routes:
        peers = [to] if isinstance(to, bytes) else list(to or ())
        if not peers:
            raise ConfigError("to", to, "one or several routing ids, since the socket is a ROUTER")
        return peers
    if to is not None:
        raise ConfigError("to", to, "nothing, since the socket has one peer")
    return [ONLY_PEER]


class Channel:
    """Sends and receives nested objects on a socket it does not own, nor does it own the ring.

    Tensors and arrays of ``threshold`` bytes and more travel by handle once the peer has joined ``ring``, all
    others in the message. A tensor that is ring-backed already, in this ring or in one that this process has
    joined, is not copied again. Dicts, lists, tuples, dataclasses and msgspec.Structs nest to any depth;
    received without a ``type`` they are dicts and lists.

    Sockets: PAIR, DEALER (with one peer), ROUTER (``to`` names the peers by routing id); `ConfigError` for any other. A
    ROUTER gets the options ROUTER_MANDATORY and ROUTER_HANDOVER: who is gone is an error, who comes back is served.
    ``name`` is a label for people in the rings that it joins, 31 bytes. The join handshake runs inside `send` and
    `recv`; `join` waits for it. A channel without a ring still receives handles and forwards them. Not thread-safe,
    like its socket; make a new one in a forked child, where this one raises `ForkedError`.
    """

    def __init__(
        self,
        socket: zmq.Socket[bytes],
        ring: Ring | None = None,
        *,
        threshold: int | str = "64KiB",
        name: str = "",
    ) -> None:
        self._routes = prepare(socket)
        self._socket = socket
        self._incoming = zmq.Poller()
        self._incoming.register(socket, zmq.POLLIN)
        self._exchange = Exchange(ring, threshold, name)

    def send(self, value: object, to: bytes | Iterable[bytes] | None = None, *, timeout_s: float = 30.0) -> None:
        """Sends ``value``, to every peer in ``to`` with one write and one ticket for each tensor.

        Raises `UnsupportedTypeError` (type and place; nothing was sent), what the ring's ``on_full`` says,
        `WaitTimeoutError` if the socket takes nothing for ``timeout_s`` seconds, `PeerDeadError` if a routing
        id is gone. What could not be sent is revoked.
        """
        self._exchange.check()
        peers = addressed(self._routes, to)
        if not all(map(self._exchange.has_answered, peers)):
            self._pump()  # an answer that makes handles of bytes may be there; else it can wait until the end
        deadline = time.monotonic() + timeout_s
        messages = self._exchange.encode(value, peers)
        try:
            while messages:
                self._send_message(messages.pop(0), deadline)
        finally:
            for message in messages:
                message.revoke(message.peers)
        self._pump()

    def recv(self, type: Any = Any, *, timeout_s: float | None = None) -> Any:
        """The next object. ``type`` is what to decode into: a dataclass, Struct, ``list[torch.Tensor]``, …

        Its tensors hold their blocks as long as they live: a loop that receives into one variable holds the last
        ones until the next object is there, unless it deletes them first.

        ``timeout_s`` None waits for ever, 0 not at all. Raises `WaitTimeoutError`, `StaleHandleError` or
        `HandleError` for a message that cannot be opened (the next one can), msgspec.ValidationError if it is
        not a ``type``.
        """
        return self.recv_from(type, timeout_s=timeout_s)[1]

    def recv_from(self, type: Any = Any, *, timeout_s: float | None = None) -> tuple[bytes, Any]:
        """As `recv`, with the routing id of the sender on a ROUTER (else ``b""``)."""
        self._exchange.check()
        exchange = self._exchange
        if not exchange.inbox:
            self._wait_for_object(timeout_s)
        try:
            return exchange.take(type)
        finally:
            if exchange.outbox:
                self._flush()

    def _wait_for_object(self, timeout_s: float | None) -> None:
        """And no further: what is behind the next object has time until the next call."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        exchange = self._exchange
        self._begin()
        while not exchange.inbox:
            try:
                self._hear_one()
            except zmq.Again:
                self._wait(_POLLIN, deadline, "a message")
            if exchange.outbox:
                self._flush()

    def join(self, to: bytes | Iterable[bytes] | None = None, *, timeout_s: float = 10.0) -> bool:
        """Waits until the peers have answered the introduction of our ring, which they do when they next
        receive or send. True: all get handles. False: some get the bytes inline (another host, no ring).

        Raises `WaitTimeoutError`. Never needed for correctness: before the join everything goes inline.
        """
        self._exchange.check()
        peers = addressed(self._routes, to)
        deadline = time.monotonic() + timeout_s
        while None in (answers := [self._exchange.gets_handles(peer) for peer in peers]):
            for peer in peers:
                self._exchange.meet(peer)
            self._begin()
            try:
                self._hear_one()  # whatever it is: the answer may be behind any number of objects
            except zmq.Again:
                self._wait(_POLLIN, deadline, "the peer to join the ring", self._routes)
            else:
                _check(deadline, "the peer to join the ring")
        if self._exchange.outbox:
            self._flush()
        return all(answers)

    def statistics(self) -> ChannelStatistics:
        """Messages, bytes on the wire, tensors by handle and inline by reason."""
        return self._exchange.statistics()

    def close(self) -> None:
        """Leaves the rings it joined, as soon as no tensor needs them; idempotent. Socket and ring stay."""
        self._exchange.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    # -- the socket -----------------------------------------------------------------------------------------

    def _send_message(self, message: Message, deadline: float) -> None:
        unsent = list(message.peers)
        try:
            while unsent:
                while not self._try_send(unsent[0], message.frames):
                    self._wait_for_room(deadline)
                unsent.pop(0)
                self._exchange.sent(message)
        finally:
            if unsent:
                message.revoke(unsent)

    def _try_send(self, peer: bytes, frames: Frames) -> bool:
        try:
            if self._routes or len(frames) > 1:
                self._socket.send_multipart([peer, *frames] if self._routes else frames, _NOBLOCK)
            else:
                self._socket.send(frames[0], _NOBLOCK)
        except zmq.Again:
            return False
        except zmq.ZMQError as error:
            if error.errno == zmq.EHOSTUNREACH:
                raise self._exchange.peers.lost(peer) from error
            raise
        return True

    def _flush(self) -> None:
        """Sends waiting answers and introductions, as far as the socket takes them."""
        outbox = self._exchange.outbox
        while outbox:
            peer, frames = outbox[0]
            try:
                if not self._try_send(peer, frames):
                    return
            except PeerDeadError:
                pass  # who comes next is introduced anew
            outbox.pop(0)

    def _pump(self) -> None:
        """Takes what the socket has: deals with the handshake, keeps the data."""
        self._begin()
        exchange, socket = self._exchange, self._socket
        while exchange.has_room and int(socket.getsockopt(_EVENTS)) & _POLLIN:
            self._hear_one()
        if exchange.outbox:
            self._flush()

    def _begin(self) -> None:
        """What is to be said goes out first."""
        if not self._routes:
            self._exchange.meet(ONLY_PEER)
        if self._exchange.outbox:
            self._flush()

    def _hear_one(self) -> None:
        """Raises `zmq.Again` if there is nothing to hear."""
        frames = receive(self._socket)
        peer = bytes(frames.pop(0)) if self._routes else ONLY_PEER
        self._exchange.hear(peer, frames)

    def _wait_for_room(self, deadline: float) -> None:
        """A ROUTER says that it can send while any of its peers can take something, so it is asked again."""
        if not self._routes:
            self._wait(zmq.POLLOUT, deadline, "room in the socket")
        else:
            _check(deadline, "room in the socket")
            time.sleep(ROUTER_SLICE_S)

    def _wait(self, event: int, deadline: float | None, what: str, briefly: bool = False) -> None:
        """Until the event or the deadline; ``briefly``: or a moment, since nothing tells that a peer has connected."""
        if self._exchange.outbox and not self._routes:
            event |= zmq.POLLOUT  # an introduction waits for the peer to connect
        left_ms = None if deadline is None else max(0, round((deadline - time.monotonic()) * 1000))
        if briefly and left_ms:
            left_ms = min(left_ms, round(ROUTER_SLICE_S * 1000))
        ready = self._incoming.poll(left_ms) if event == _POLLIN else self._socket.poll(left_ms, event)
        if not ready and deadline is not None:
            _check(deadline, what)


def _check(deadline: float, what: str) -> None:
    if time.monotonic() >= deadline:
        raise WaitTimeoutError(f"waited for {what} until the deadline")


def receive(socket: zmq.Socket[bytes]) -> list[memoryview]:
    """All frames of one message. Zero-copy ones, for they say without another question whether there are more."""
    frame = socket.recv(_NOBLOCK, copy=False)
    frames = [frame.buffer]
    while frame.more:
        frame = socket.recv(_NOBLOCK, copy=False)
        frames.append(frame.buffer)
    return frames
