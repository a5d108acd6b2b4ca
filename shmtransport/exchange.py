"""The conversation of two channels, without any socket: what to say, and what was heard.

Until a peer has answered JOINED it gets the bytes inline: always correct, only slower. A tensor of a third
process's ring is forwarded by handle the same way: the forwarder introduces its peer to that ring, the peer
attaches by itself, and its id comes back out of band, never in the path of a request.

Both `shmtransport.channel` and `shmtransport.asyncio` are shells around this. One thread at a time may `encode`
and one may do everything else: what both touch are single operations on dicts and lists.
"""

from collections import Counter, deque
from collections.abc import Iterable
from typing import Any, NamedTuple

import msgspec

from shmtransport import _core, attachment, codec, tensors
from shmtransport.attachment import Attachment
from shmtransport.config import parse_size
from shmtransport.endpoint import Endpoint, peer_ids
from shmtransport.errors import ForkedError, HandleError, LayoutMismatchError, ShmTransportError
from shmtransport.handles import Handle, Inline
from shmtransport.layout import WRITER, InlineReason
from shmtransport.messages import (
    AGAIN,
    JOINED,
    MAGIC,
    OBJECT,
    REFUSED,
    RING,
    Answer,
    Host,
    Introduction,
    envelope,
    opened,
)
from shmtransport.reader import Reader
from shmtransport.ring import Ring
from shmtransport.tensors import Tensor

Frames = list[bytes | memoryview]


class ChannelStatistics(msgspec.Struct, frozen=True):
    """What went through one channel's socket. Sizes in bytes, of data messages only. A plain value: any thread, after a
    fork too."""

    sent: int
    """Messages; one that went to several peers counts for each."""
    sent_wire_nbytes: int
    """In these."""
    received: int
    """Messages."""
    received_wire_nbytes: int
    """In these."""
    handles: int
    """Tensors sent by handle."""
    inline: dict[str, int]
    """Tensors sent inline, by reason."""


class Message(NamedTuple):
    """A message to be sent to each of ``peers``, and the handles to revoke if that fails."""

    peers: list[bytes]
    frames: Frames
    handles: list[tuple[Endpoint, Handle, dict[bytes, str]]]
    """With each peer's id in the handle's ring."""

    @property
    def nbytes(self) -> int:
        """On the wire, to one peer."""
        return sum(memoryview(frame).nbytes for frame in self.frames)

    def revoke(self, unsent: Iterable[bytes]) -> None:
        """It was not sent to these peers: they will not open its handles."""
        peers = list(unsent)
        for endpoint, handle, ids in self.handles:
            endpoint.revoke(handle, [ids[peer] for peer in peers])


class _Audience(NamedTuple):
    """Those who get a message, in one ring."""

    ids: dict[bytes, str]
    readers: bytes
    """The ids as `Endpoint.share_described` takes them."""


class _Peer:
    """What one other channel has told about itself."""

    def __init__(self) -> None:
        self.joined: dict[str, str] = {}
        self.refused: set[str] = set()
        self.introduced: set[str] = set()


class Exchange:
    """State of all conversations of one channel."""

    def __init__(self, ring: Ring | None, threshold: int | str, name: str) -> None:
        self.ring = ring
        self.name = name
        self.threshold_nbytes = parse_size("threshold", threshold, smallest=0)
        self.host = Host.here()
        self.outbox: list[tuple[bytes, Frames]] = []
        """Answers and introductions that wait to be sent, in order."""
        self.inbox: deque[tuple[bytes, list[memoryview] | ShmTransportError]] = deque()
        """Objects, or what was wrong with them, that wait to be taken."""
        self._peers: dict[bytes, _Peer] = {}
        self._readers: dict[str, Endpoint] = {}
        self._counts: Counter[str] = Counter()
        self._fork_epoch = _core.fork_epoch()
        self._inline: Counter[str] = Counter()
        self._encoder = codec.Encoder()
        self._decoder = codec.Decoder()

    def statistics(self) -> ChannelStatistics:
        counts = self._counts
        return ChannelStatistics(
            counts["sent"], counts["sent_nbytes"], counts["received"], counts["received_nbytes"], counts["handles"],
            dict(self._inline),
        )  # fmt: skip

    def check(self) -> None:
        """Raises `ForkedError` in a forked child: a socket cannot be used there, it would wait for ever."""
        if self._fork_epoch != _core.fork_epoch():
            raise ForkedError("the channel was made before this process was forked: make socket and channel anew")

    def close(self) -> None:
        """Refuses the objects that nobody will take, and leaves the rings."""
        while self.inbox:
            _, heard = self.inbox.popleft()
            if not isinstance(heard, ShmTransportError):
                self._refuse(heard)
        for reader in self._readers.values():
            reader.close()

    def _leave_the_dead(self) -> None:
        """A ring whose writer has died gives its memory back when the last process leaves it."""
        for ring_id, reader in list(self._readers.items()):
            if not reader.closed and not reader.attachment.core.is_alive(WRITER):
                reader.close()
                self._readers.pop(ring_id, None)

    # -- peers ----------------------------------------------------------------------------------------------

    def meet(self, peer: bytes) -> None:
        """Introduces our ring to ``peer``, once."""
        if self.ring is not None:
            self._introduce(peer, self.ring.id)

    def settled(self, peer: bytes) -> bool | None:
        """Whether ``peer`` gets handles of our ring; None while it has not answered."""
        state = self._peers.get(peer)
        if self.ring is None or state is None:
            return None if self.ring else False
        if self.ring.id in state.joined:
            return True
        return False if self.ring.id in state.refused else None

    def has_answered(self, peer: bytes) -> bool:
        """Whether ``peer`` has said of our ring, and of every other one it was introduced to, if it joined."""
        state = self._peers.get(peer)
        if self.ring is None or state is None or self.ring.id not in state.introduced:
            return False
        return all(ring_id in state.joined or ring_id in state.refused for ring_id in state.introduced)

    def _peer(self, peer: bytes) -> _Peer:
        """What is known of it; nothing yet, at first."""
        found = self._peers.get(peer)
        if found is None:
            found = self._peers.setdefault(peer, _Peer())
        return found

    def _introduce(self, peer: bytes, ring_id: str) -> None:
        state = self._peer(peer)
        if ring_id not in state.introduced:
            state.introduced.add(ring_id)
            self.outbox.append((peer, envelope(RING, msgspec.msgpack.encode(Introduction(ring_id, self.host)))))

    # -- sending --------------------------------------------------------------------------------------------

    def encode(self, value: object, peers: Iterable[bytes]) -> list[Message]:
        """``value`` for all ``peers``: one write and one ticket a tensor for those that joined our ring, the
        bytes for the others. Raises `UnsupportedTypeError`; nothing is leased then."""
        groups = self._groups(peers)
        messages: list[Message] = []
        try:
            messages.extend(self._encode(value, group) for group in groups)
        except BaseException:
            for message in messages:
                message.revoke(message.peers)
            raise
        return messages

    def _groups(self, peers: Iterable[bytes]) -> list[list[bytes]]:
        """Peers that can have the same message: those that joined our ring or those that did not, and no two
        of one process, which has a single bit in a ticket."""
        groups: list[tuple[bool | None, set[tuple[str, str]], list[bytes]]] = []
        for peer in peers:
            self.meet(peer)
            joined = self.settled(peer)
            places = set(self._peer(peer).joined.items())
            for alike, taken, members in groups:
                if alike == joined and not taken & places:
                    taken |= places
                    members.append(peer)
                    break
            else:
                groups.append((joined, places, [peer]))
        return [members for _, _, members in groups]

    def _encode(self, value: object, peers: list[bytes]) -> Message:
        message = Message(peers, [], [])
        audiences: dict[str, _Audience] = {}

        def place(tensor: Tensor) -> Handle | Inline:
            return self._place(tensor, message, audiences)

        try:
            body, frames = self._encoder.encode(value, place)
        except BaseException:
            message.revoke(peers)
            raise
        message.frames.extend([*envelope(OBJECT, body), *frames])
        self._counts["handles"] += len(message.handles)
        return message

    def _place(self, tensor: Tensor, message: Message, audiences: dict[str, _Audience]) -> Handle | Inline:
        sent = self._handle_or_inline(tensor, tensors.describe(tensor), message, audiences)
        if isinstance(sent, Inline):
            self._inline[sent.reason.name.lower()] += 1
        return sent

    def _handle_or_inline(
        self, tensor: Tensor, description: tensors.Description, message: Message, audiences: dict[str, _Audience]
    ) -> Handle | Inline:
        if description.nbytes < max(self.threshold_nbytes, 1):
            return self._inline_because(InlineReason.SMALL, tensor, description)
        endpoint = self._home_of(description)
        if endpoint is None:
            return self._inline_because(InlineReason.NOT_BACKED, tensor, description)
        audience = audiences.get(endpoint.id) or self._audience(endpoint.id, message.peers)
        if isinstance(audience, InlineReason):
            return self._inline_because(audience, tensor, description)
        audiences[endpoint.id] = audience
        sent = endpoint.share_described(tensor, description, audience.readers)
        if isinstance(sent, Handle):
            message.handles.append((endpoint, sent, audience.ids))
        elif sent.reason == InlineReason.NOT_JOINED:
            self._reintroduce(endpoint, message.peers)
        return sent

    def _audience(self, ring_id: str, peers: list[bytes]) -> _Audience | InlineReason:
        """Who these peers are in that ring; or, where one is nobody there, why. That one is introduced to it."""
        ids: dict[bytes, str] = {}
        for peer in peers:
            state = self._peer(peer)
            peer_id = state.joined.get(ring_id)
            if peer_id is None:
                self._introduce(peer, ring_id)
                return InlineReason.ELSEWHERE if ring_id in state.refused else InlineReason.NOT_JOINED
            ids[peer] = peer_id
        return _Audience(ids, peer_ids(ids.values()))

    def _home_of(self, description: tensors.Description) -> Endpoint | None:
        """The end of the ring whose block the tensor is, or of ours, into which it will be written."""
        if description.address is not None:
            home = attachment.holder_of(description.address, description.nbytes)
            if home is not None and (self.ring is None or home.ring_id != self.ring.id):
                return self._reader(home)
        return self.ring

    def _reader(self, home: Attachment) -> Endpoint:
        found = self._readers.get(home.ring_id)
        if found is None or found.closed:
            found = self._readers[home.ring_id] = Reader(home)
        return found

    def _reintroduce(self, endpoint: Endpoint, peers: list[bytes]) -> None:
        """A peer that had joined may be another process by now."""
        alive = {process.peer_id for process in endpoint.statistics().processes if process.alive}
        for peer in peers:
            state = self._peers[peer]
            if state.joined.get(endpoint.id) not in alive:
                state.joined.pop(endpoint.id, None)
                state.introduced.discard(endpoint.id)
                self._introduce(peer, endpoint.id)

    def _inline_because(self, reason: InlineReason, tensor: Tensor, description: tensors.Description) -> Inline:
        if self.ring is not None and not self.ring.closed:
            self.ring.count_inline(reason)
        return tensors.to_inline(tensor, description, reason)

    def sent(self, message: Message) -> None:
        """It went out to one more peer."""
        self._counts["sent"] += 1
        self._counts["sent_nbytes"] += message.nbytes

    # -- receiving ------------------------------------------------------------------------------------------

    def hear(self, peer: bytes, frames: list[memoryview]) -> None:
        """Deals with a message of the handshake; keeps an object, or what was wrong with it, for `take`."""
        try:
            if self._is_object(peer, frames):
                self.inbox.append((peer, frames))
        except (HandleError, LayoutMismatchError) as error:
            self.inbox.append((peer, error))

    def take(self, type: Any) -> tuple[bytes, Any]:
        """The next object and its sender. There must be one in `inbox`.

        Raises `HandleError` or `LayoutMismatchError` for what was not a message of this version, and what
        opening its handles raises.
        """
        peer, heard = self.inbox.popleft()
        if isinstance(heard, ShmTransportError):
            raise heard
        return peer, self._decode(peer, heard, type)

    def _is_object(self, peer: bytes, frames: list[memoryview]) -> bool:
        kind, body = opened(frames)
        self.meet(peer)
        if kind == OBJECT:
            self._counts["received"] += 1
            self._counts["received_nbytes"] += sum(frame.nbytes for frame in frames)
            return True
        state = self._peer(peer)
        try:
            if kind == RING:
                self._join(peer, msgspec.msgpack.decode(body, type=Introduction))
            else:
                answer = msgspec.msgpack.decode(body, type=Answer)
                if answer.ring_id not in state.introduced:
                    pass  # to somebody who had this address before; or nobody ever asked
                elif kind == JOINED and answer.peer_id is not None:
                    state.joined[answer.ring_id] = answer.peer_id
                elif kind == REFUSED:
                    state.refused.add(answer.ring_id)
                elif kind == AGAIN:
                    state.joined.pop(answer.ring_id, None)
                    state.introduced.discard(answer.ring_id)
                    self._introduce(peer, answer.ring_id)
        except codec.UNREADABLE as error:
            raise HandleError(f"a channel message of kind {kind} that cannot be read: {error}") from error
        return False

    def is_introduction(self, frames: list[memoryview]) -> bool:
        """Whether `hear` would join a ring for this message, which takes milliseconds."""
        return frames[0].nbytes >= 3 and frames[0][0] == MAGIC and frames[0][2] == RING

    def _join(self, peer: bytes, introduction: Introduction) -> None:
        """Joins a ring that a peer introduced, if it is on this host, and tells who we are in it."""
        self._leave_the_dead()
        ring_id = introduction.ring_id
        try:
            if introduction.host != self.host:
                raise HandleError(f"that ring is elsewhere: expected {self.host}, got {introduction.host}")
            reader = self._readers.get(ring_id)
            if reader is None or reader.closed:
                reader = self._readers[ring_id] = Reader.join(ring_id, name=self.name)
            kind, answer = JOINED, Answer(ring_id, peer_id=reader.peer_id)
        except (ShmTransportError, OSError, MemoryError) as error:
            kind, answer = REFUSED, Answer(ring_id, reason=str(error))
        self.outbox.append((peer, envelope(kind, msgspec.msgpack.encode(answer))))

    def _decode(self, peer: bytes, frames: list[memoryview], type: Any) -> Any:
        def open_handle(handle: Handle) -> Tensor:
            ring_id = handle.ring_id.hex()
            reader = self._readers.get(ring_id)
            if reader is None and self.ring is not None and ring_id == self.ring.id:
                reader = self.ring
            if reader is None:
                self.outbox.append((peer, envelope(AGAIN, msgspec.msgpack.encode(Answer(ring_id)))))
                raise HandleError(f"expected a handle of a ring joined here, got one of {ring_id}: asked for it again")
            return reader.open(handle)

        try:
            return self._decoder.decode(frames[0][3:], frames[1:], open_handle, type)
        except BaseException:
            self._refuse(frames)
            raise

    def _refuse(self, frames: list[memoryview]) -> None:
        """Nobody here will open the handles of this message; those that were opened are not affected."""
        for handle in codec.handles_in(frames[0][3:]):
            reader = self._readers.get(handle.ring_id.hex())
            if reader is not None and not reader.closed:
                reader.refuse(handle)
