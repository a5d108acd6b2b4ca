"""Growing a ring before it is needed: fresh pages cost more than the copy into them."""

import threading
from typing import Final

from shmtransport.errors import ShmTransportError
from shmtransport.ring import Ring

_LOOKS_EVERY_S: Final = 60.0


class GrowsAhead:
    """A thread that keeps room for one more segment free in a ring, up to its capacity.

    Asked by `look` after each write; it ends when the ring is closed, and with the process. A write that comes
    while it works waits for it, as it would wait for its own growth.
    """

    def __init__(self, ring: Ring) -> None:
        self._ring = ring
        self._asked = threading.Event()
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="shmtransport-growth", daemon=True)
        self._thread.start()

    def look(self) -> None:
        """Room may have become scarce; returns at once."""
        self._asked.set()

    def end(self) -> None:
        """Before the ring is closed. Waits for a growth that has begun, which takes less than a second."""
        self._ended = True
        self._asked.set()
        if threading.current_thread() is not self._thread:  # which may be the one that collects the last client
            self._thread.join()

    def _run(self) -> None:
        while not self._ended:
            try:
                while not self._ended and self._is_scarce() and self._ring.attachment.grow(1):
                    pass
            except (ShmTransportError, OSError):
                return  # no memory is left on this host: a write will say so, and go inline
            self._asked.wait(_LOOKS_EVERY_S)
            self._asked.clear()

    def _is_scarce(self) -> bool:
        place = self._ring.attachment
        _, _, largest_free_nbytes, _ = place.core.room()
        return largest_free_nbytes < place.segment_nbytes
