"""What would make a request wait is done before: growing a ring, and mapping what another process has grown."""

import threading
from typing import Final
from weakref import WeakSet

from shmtransport.errors import ShmTransportError
from shmtransport.reader import Reader
from shmtransport.ring import Ring

_GROWTH_EVERY_S: Final = 60.0
_MAPPING_EVERY_S: Final = 0.25
_END_TIMEOUT_S: Final = 10.0  # a growth takes less than one


class GrowsAhead:
    """A thread that keeps room for one more segment free in a ring, up to its capacity.

    It begins with a second segment, mostly before anybody waits: else the first request would have it made, and those
    who read map and register it during the next ones. Asked by `look` after each write; it ends when the ring is
    closed, and with the process. A write that comes while it works waits for it, as it would wait for its own growth.
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
            self._thread.join(_END_TIMEOUT_S)

    def _run(self) -> None:
        try:
            self._ring.grow()
            while not self._ended:
                while not self._ended and self._ring.grow_ahead():
                    pass
                self._asked.wait(_GROWTH_EVERY_S)
                self._asked.clear()
        except (ShmTransportError, OSError):
            return  # no memory is left on this host: a write will say so, and go inline


class MapsAhead:
    """A thread that maps what writers have added to the rings of some readers, while there are any.

    Nobody tells a reader that its ring has grown, so it looks four times a second. It keeps no reader alive.
    """

    def __init__(self) -> None:
        self._readers: WeakSet[Reader] = WeakSet()
        self._lock = threading.Lock()
        self._runs = False

    def add(self, reader: Reader) -> None:
        """Until it is closed or dropped."""
        with self._lock:
            self._readers.add(reader)
            if not self._runs:
                self._runs = True
                threading.Thread(target=self._run, name="shmtransport-mapping", daemon=True).start()

    def _run(self) -> None:
        pause = threading.Event()
        while self._map():
            pause.wait(_MAPPING_EVERY_S)

    def _map(self) -> bool:
        """Looks once; False if there is nothing to look at any more."""
        with self._lock:
            readers = [reader for reader in self._readers if not reader.closed]
            self._runs = bool(readers)
        for reader in readers:
            try:
                reader.map_ahead()
            except (ShmTransportError, OSError):
                continue  # closed meanwhile, or cannot be mapped: the senders know
        return bool(readers)
