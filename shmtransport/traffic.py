"""What goes through one channel's socket: a message on its way, and how much there was."""

from collections.abc import Iterable

import msgspec

from shmtransport.endpoint import Endpoint, revoke_all
from shmtransport.handles import Handle

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


class Message:
    """A message to be sent to each of ``peers``, and the handles to revoke if that fails."""

    __slots__ = ("frames", "handles", "peers")

    def __init__(self, peers: list[bytes]) -> None:
        self.peers = peers
        self.frames: Frames = []
        self.handles: list[tuple[Endpoint, bytes, dict[bytes, str]]] = []
        """Their bytes, with each peer's id in the handle's ring."""

    @property
    def nbytes(self) -> int:
        """On the wire, to one peer."""
        return nbytes_of(self.frames)

    def revoke(self, unsent: Iterable[bytes]) -> None:
        """It was not sent to these peers: they will not open its handles."""
        peers = list(unsent)
        revoke_all((end, Handle.from_bytes(wire), [ids[peer] for peer in peers]) for end, wire, ids in self.handles)


def nbytes_of(frames: Iterable[bytes | memoryview]) -> int:
    nbytes = 0
    for frame in frames:
        nbytes += len(frame) if isinstance(frame, bytes) else frame.nbytes
    return nbytes
