"""The reading end of a ring."""

from typing import Self

from shmtransport import attachment
from shmtransport.endpoint import Endpoint, register
from shmtransport.layout import WRITER


class Reader(Endpoint):
    """A process that has joined another process's ring.

    Opens handles and forwards them: ``reader.share(tensor, other)`` sends a tensor on to a third process that
    has joined the same ring, without touching a byte. One process has one place in a ring: joining again gives
    the same `peer_id`. Thread-safe; raises `ForkedError` in a forked child, which joins anew.
    """

    @classmethod
    def join(cls, ring_id: str, *, name: str = "", writable: bool = False) -> Self:
        """Joins the ring ``ring_id`` (`Ring.id`) of a writer on this host, of this user.

        Maps its segments, read-only unless ``writable``. ``name`` is a label for people, 31 bytes.

        Raises `SegmentNotFoundError` if there is no such ring (any more), `RingFullError` if 31 readers have
        joined, `LayoutMismatchError` or `CorruptSegmentError` if it cannot be understood, `SegmentError` if it
        belongs to somebody else or cannot be mapped. Nothing is left behind then.
        """
        return cls(attachment.join(ring_id, name, writable=writable))

    def map_ahead(self) -> None:
        """Maps segments that the writer has added since, and registers them for DMA where CUDA is in use, so that no
        `open` has to: 0.1 s for 512 MiB.

        Never needed for correctness; call it where nobody waits. Raises `SegmentError` if one cannot be mapped:
        this process is served inline then, until a later call has mapped them all.
        """
        if self.attachment.index != WRITER:  # in the writer's own process: its segments are mapped
            self.attachment.map_ahead()
            register(self.attachment)
