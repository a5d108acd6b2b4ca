"""The conversation of two channels, without any socket: what to say, and what was heard.

Until a peer has answered JOINED it gets the bytes inline: always correct, only slower. A tensor of a third
process's ring is forwarded by handle the same way: the forwarder introduces its peer to that ring, the peer
attaches by itself, and its id comes back out of band, never in the path of a request.

Both `shmtransport.channel` and `shmtransport.asyncio` are shells around this. One thread at a time may `encode`
and one may do everything else: what both touch are single operations on dicts and lists.
"""

from collections import Counter, deque
from collections.abc import Iterable
from typing import Any, Final, TypeAlias

import msgspec

from shmtransport import _core, attachment, codec, tensors
from shmtransport.attachment import Attachment
from shmtransport.config import parse_size
from shmtransport.endpoint import Endpoint
from shmtransport.errors import ClosedError, ForkedError, HandleError, LayoutMismatchError, ShmTransportError
from shmtransport.handles import RING_ID, Handle, Inline
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
from shmtransport.peers import Peers
from shmtransport.reader import Reader
from shmtransport.ring import Ring
from shmtransport.tensors import Tensor
from shmtransport.traffic import ChannelStatistics, Frames, Message, nbytes_of

_Audience: TypeAlias = tuple[dict[bytes, str], bytes]
"""Those who get a message, in one ring: their ids there, and the same as `Endpoint.share_described` takes them."""


_NO_MESSAGE: Final = Message([])

_INBOX_LIMIT: Final = 1000
"""Objects."""


class Exchange:
    """State of all conversations of one channel."""

    def __init__(self, ring: Ring | None, threshold: int | str, name: str) -> None:
        self.ring = ring
        self.name = name
        self._least_nbytes = max(1, parse_size("threshold", threshold, smallest=0))
        self.host = Host.here()
        self.outbox: list[tuple[bytes, Frames]] = []
        """Answers and introductions that wait to be sent, in order."""
        self.inbox: deque[tuple[bytes, list[memoryview] | ShmTransportError]] = deque()
        """Objects, or what was wrong with them, that wait to be taken."""
        self.peers = Peers(self.host, self.outbox)
        self._readers: dict[bytes, Endpoint] = {}
        """By ring id, as a handle has it."""
        self._closed = False
        self._fork_epoch = _core.fork_epoch()
        self._sent = self._sent_nbytes = self._received = self._received_nbytes = self._handles = 0
        self._inline: Counter[str] = Counter()
        self._encoder = codec.Encoder()
        self._decoder = codec.Decoder()
        self._encoded = _NO_MESSAGE
        """What is being encoded just now, and for whom in our ring."""
        self._audience: _Audience | None = None
        self._sender = b""
        """Of what is being decoded just now."""

    def statistics(self) -> ChannelStatistics:
        return ChannelStatistics(
            self._sent, self._sent_nbytes, self._received, self._received_nbytes, self._handles, dict(self._inline)
        )

    def check(self) -> None:
        """Raises `ClosedError` after `close`, and `ForkedError` in a forked child: a socket cannot be used there, it
        would wait for ever."""
        if self._fork_epoch != _core.fork_epoch():
            raise ForkedError("the channel was made before this process was forked: make socket and channel anew")
        if self._closed:
            raise ClosedError("the channel was closed")

    def close(self) -> None:
        """Refuses the objects that nobody will take, and leaves the rings."""
        self._closed = True
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

    @property
    def has_room(self) -> bool:
        """Whether a side that only sends is to hear more; what it leaves stays in the socket's own queue."""
        return len(self.inbox) < _INBOX_LIMIT

    def meet(self, peer: bytes) -> None:
        """Introduces our ring to ``peer``, once."""
        if self.ring is not None:
            self.peers.introduce(peer, self.ring.id)

    def gets_handles(self, peer: bytes) -> bool | None:
        """Whether ``peer`` gets handles of our ring; None while it has not answered."""
        if self.ring is None:
            return False
        state = self.peers.of(peer)
        if self.ring.id in state.joined:
            return True
        return False if self.ring.id in state.refused else None

    def has_answered(self, peer: bytes) -> bool:
        """Whether ``peer`` has said of our ring, and of every other one it was introduced to, if it joined."""
        state = self.peers.of(peer)
        return not state.unanswered and self.ring is not None and self.ring.id in state.introduced

    # -- sending --------------------------------------------------------------------------------------------

    def encode(self, value: object, peers: Iterable[bytes]) -> list[Message]:
        """``value`` for all ``peers``: one write and one ticket a tensor for those that joined our ring, the
        bytes for the others. Raises `UnsupportedTypeError`; nothing is leased then."""
        everybody = list(peers)
        for peer in everybody:
            self.meet(peer)
        if len(everybody) == 1:
            return [self._encode(value, everybody)]
        groups = self._groups(everybody)
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
            joined = self.gets_handles(peer)
            places = set(self.peers.of(peer).joined.items())
            for alike, taken, members in groups:
                if alike == joined and not taken & places:
                    taken |= places
                    members.append(peer)
                    break
            else:
                groups.append((joined, places, [peer]))
        return [members for _, _, members in groups]

    def _encode(self, value: object, peers: list[bytes]) -> Message:
        self._encoded = message = Message(peers)
        self._audience = None if self.ring is None else self._audience_in(self.ring.id, peers)
        try:
            body, frames = self._encoder.encode(value, self._place)
        except BaseException:
            message.revoke(peers)
            raise
        finally:
            self._encoded = _NO_MESSAGE
        message.frames = [*envelope(OBJECT, body), *frames]
        self._handles += len(message.handles)
        return message

    def _place(self, tensor: Tensor) -> bytes | Inline:
        """How a tensor travels: mostly in one call, else step by step."""
        message, ring, audience = self._encoded, self.ring, self._audience
        sent: bytes | Inline | None = None
        if ring is not None and audience is not None:
            ids, readers = audience
            sent = ring.share_wire(tensor, self._least_nbytes, readers)
            if type(sent) is bytes:
                message.handles.append((ring, sent, ids))
                return sent
            if isinstance(sent, Inline) and sent.reason == InlineReason.NOT_JOINED:
                self._reintroduce(ring, message.peers)
                self._audience = None
        if sent is None:
            sent = self._handle_or_inline(tensor, tensors.describe(tensor), message)
        if isinstance(sent, Inline):
            self._inline[sent.reason.name.lower()] += 1
        return sent

    def _handle_or_inline(self, tensor: Tensor, description: tensors.Description, message: Message) -> bytes | Inline:
        if description.nbytes < self._least_nbytes:
            return self._inline_because(InlineReason.SMALL, tensor, description)
        endpoint = self._home_of(description)
        if endpoint is None:
            return self._inline_because(InlineReason.NOT_BACKED, tensor, description)
        audience = self._audience_in(endpoint.id, message.peers)
        if audience is None:
            return self._inline_because(self._why_not(endpoint.id, message.peers), tensor, description)
        ids, readers = audience
        sent = endpoint.share_described(tensor, description, readers)
        if isinstance(sent, Handle):
            wire = bytes(sent)
            message.handles.append((endpoint, wire, ids))
            return wire
        if sent.reason == InlineReason.NOT_JOINED:
            self._reintroduce(endpoint, message.peers)
        return sent

    def _audience_in(self, ring_id: str, peers: list[bytes]) -> _Audience | None:
        """Who these peers are in that ring; None if one is nobody there."""
        ids: dict[bytes, str] = {}
        readers = b""
        for peer in peers:
            peer_id = self.peers.of(peer).joined.get(ring_id)
            if peer_id is None:
                return None
            ids[peer] = peer_id
            readers += bytes.fromhex(peer_id)
        return ids, readers

    def _why_not(self, ring_id: str, peers: list[bytes]) -> InlineReason:
        """Why they have no handles of that ring. The first that has not joined it is introduced to it."""
        for peer in peers:
            state = self.peers.of(peer)
            if ring_id not in state.joined:
                self.peers.introduce(peer, ring_id)
                return InlineReason.ELSEWHERE if ring_id in state.refused else InlineReason.NOT_JOINED
        return InlineReason.NOT_JOINED

    def _home_of(self, description: tensors.Description) -> Endpoint | None:
        """The end of the ring whose block the tensor is, or of ours, into which it will be written."""
        if description.address is not None:
            home = attachment.holder_of(description.address, description.nbytes)
            if home is not None and (self.ring is None or home.ring_id != self.ring.id):
                return self._reader(home)
        return self.ring

    def _reader(self, home: Attachment) -> Endpoint:
        found = self._readers.get(home.ring_id_bytes)
        if found is None or found.closed:
            found = self._readers[home.ring_id_bytes] = Reader(home)
        return found

    def _reintroduce(self, endpoint: Endpoint, peers: list[bytes]) -> None:
        """A peer that had joined may be another process by now."""
        alive = {process.peer_id for process in endpoint.statistics().processes if process.alive}
        for peer in peers:
            if self.peers.of(peer).joined.get(endpoint.id) not in alive:
                self.peers.introduce_anew(peer, endpoint.id)

    def _inline_because(self, reason: InlineReason, tensor: Tensor, description: tensors.Description) -> Inline:
        if self.ring is not None and not self.ring.closed:
            self.ring.count_inline(reason)
        return tensors.to_inline(tensor, description, reason)

    def sent(self, message: Message) -> None:
        """It went out to one more peer."""
        self._sent += 1
        self._sent_nbytes += message.nbytes

    # -- receiving ------------------------------------------------------------------------------------------

    def hear(self, peer: bytes, frames: list[memoryview]) -> None:
        """Deals with a message of the handshake; keeps an object, or what was wrong with it, for `take`."""
        try:
            kind, body = opened(frames)
            self.meet(peer)
            if kind == OBJECT:
                self._received += 1
                self._received_nbytes += nbytes_of(frames)
                frames[0] = body
                self.inbox.append((peer, frames))
            else:
                self._converse(peer, kind, body)
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
        self._sender = peer
        try:
            return peer, self._decoder.decode(heard[0], heard[1:], self._open, type)
        except BaseException:
            self._refuse(heard)
            raise

    def _converse(self, peer: bytes, kind: int, body: memoryview) -> None:
        """Does what a message of the handshake says."""
        try:
            if kind == RING:
                self._join(peer, msgspec.msgpack.decode(body, type=Introduction))
            else:
                self.peers.note(peer, kind, msgspec.msgpack.decode(body, type=Answer))
        except codec.UNREADABLE as error:
            raise HandleError(f"a channel message of kind {kind} that cannot be read: {error}") from error

    def is_introduction(self, frames: list[memoryview]) -> bool:
        """Whether `hear` would join a ring for this message, which takes milliseconds."""
        return frames[0].nbytes >= 3 and frames[0][0] == MAGIC and frames[0][2] == RING

    def _join(self, peer: bytes, introduction: Introduction) -> None:
        """Joins a ring that a peer introduced, if it is on this host, and tells who we are in it."""
        self._leave_the_dead()
        ring_id, key = introduction.ring_id, bytes.fromhex(introduction.ring_id)
        try:
            if introduction.host != self.host:
                raise HandleError(f"that ring is elsewhere: expected {self.host}, got {introduction.host}")
            reader = self._readers.get(key)
            if reader is None or reader.closed:
                reader = self._readers[key] = Reader.join(ring_id, name=self.name)
            kind, answer = JOINED, Answer(ring_id, peer_id=reader.peer_id)
        except (ShmTransportError, OSError, MemoryError) as error:
            kind, answer = REFUSED, Answer(ring_id, reason=str(error))
        self.outbox.append((peer, envelope(kind, msgspec.msgpack.encode(answer))))

    def _open(self, wire: memoryview) -> Tensor:
        """The tensor behind a handle's bytes, of a ring that was joined here."""
        endpoint = self._readers.get(bytes(wire[RING_ID]))
        return self._reached(wire).open_wire(wire) if endpoint is None else endpoint.open_wire(wire)

    def _reached(self, wire: memoryview) -> Endpoint:
        """Our own ring, if that is what the handle names. Otherwise the sender is asked for the ring."""
        ring_id = Handle.from_bytes(wire).ring_id.hex()
        if self.ring is not None and ring_id == self.ring.id:
            return self.ring
        self.outbox.append((self._sender, envelope(AGAIN, msgspec.msgpack.encode(Answer(ring_id)))))
        raise HandleError(f"expected a handle of a ring joined here, got one of {ring_id}: asked for it again")

    def _refuse(self, frames: list[memoryview]) -> None:
        """Nobody here will open the handles of this message; those that were opened are not affected."""
        for handle in codec.handles_in(frames[0]):
            reader = self._readers.get(handle.ring_id)
            if reader is not None and not reader.closed:
                reader.refuse(handle)
