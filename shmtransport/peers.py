"""What one channel knows of the others: to which rings it introduced them, and what they answered."""

from typing import Final

import msgspec

from shmtransport.errors import PeerDeadError
from shmtransport.messages import AGAIN, JOINED, REFUSED, RING, Answer, Host, Introduction, envelope
from shmtransport.traffic import Frames


class Peer:
    """What is known of one, by ring id."""

    __slots__ = ("introduced", "joined", "refused", "unanswered")

    def __init__(self) -> None:
        self.joined: dict[str, str] = {}
        """Its peer ids."""
        self.refused: set[str] = set()
        self.introduced: set[str] = set()
        self.unanswered: set[str] = set()
        """Of those introduced."""


class Peers:
    """Of all that a channel has heard of or addressed. What is to be said to them goes into ``outbox``."""

    def __init__(self, host: Host, outbox: list[tuple[bytes, Frames]]) -> None:
        self._host: Final = host
        self._outbox: Final = outbox
        self._known: dict[bytes, Peer] = {}

    def __len__(self) -> int:
        return len(self._known)

    def of(self, peer: bytes) -> Peer:
        """What is known of it; nothing yet, at first."""
        found = self._known.get(peer)
        if found is None:
            found = self._known.setdefault(peer, Peer())
        return found

    def lost(self, peer: bytes) -> PeerDeadError:
        """It is not connected, which is to be raised. Who comes under its address is somebody new."""
        self._known.pop(peer, None)
        return PeerDeadError(f"no peer with routing id {peer!r} is connected")

    def introduce(self, peer: bytes, ring_id: str) -> None:
        """Tells it of a ring, once."""
        state = self.of(peer)
        if ring_id not in state.introduced:
            state.introduced.add(ring_id)
            state.unanswered.add(ring_id)
            self._outbox.append((peer, envelope(RING, msgspec.msgpack.encode(Introduction(ring_id, self._host)))))

    def introduce_anew(self, peer: bytes, ring_id: str) -> None:
        """It may be another process by now, or have left the ring."""
        state = self.of(peer)
        state.joined.pop(ring_id, None)
        state.introduced.discard(ring_id)
        self.introduce(peer, ring_id)

    def note(self, peer: bytes, kind: int, answer: Answer) -> None:
        """What it answers to an introduction."""
        state = self.of(peer)
        if answer.ring_id not in state.introduced:
            return  # to somebody who had this address before; or nobody ever asked
        if kind == JOINED and answer.peer_id is not None:
            state.joined[answer.ring_id] = answer.peer_id
            state.unanswered.discard(answer.ring_id)
        elif kind == REFUSED:
            state.refused.add(answer.ring_id)
            state.unanswered.discard(answer.ring_id)
        elif kind == AGAIN:
            self.introduce_anew(peer, answer.ring_id)
