"""Nothing in /dev/shm outlives an engine: the last process to leave a ring removes its names, if it is not killed."""

import os
import time
import weakref
from typing import Final

from shmtransport import attachment, segment

_TIMEOUT_S: Final = 2.0
_SLICE_S: Final = 0.02


class Leaving:
    """Removes the names of rings that this process had a part in, once everybody who used them is gone.

    vLLM gives an engine five seconds to end, kills it then and does not wait for it; a killed process leaves
    nothing in order. Whoever still runs looks after it: when a client is shut down, and, if this was made before
    vLLM's clients, when the process ends, after theirs. A process without a ring, such as the parent of several
    API servers, looks at its end after all that came since it began. Forgotten by a fork.
    """

    def __init__(self) -> None:
        self._ring_ids: set[str] = set()
        os.register_at_fork(after_in_child=self._ring_ids.clear)
        self._at_exit = weakref.finalize(self, _sweep_at_exit, self._ring_ids, frozenset(segment.rings()))

    def note(self, ring_id: str) -> None:
        """This process has made or joined a ring."""
        self._ring_ids.add(ring_id)

    def sweep(self) -> None:
        """Waits for up to two seconds for the rings' other processes to be gone. Takes no time where they are."""
        _sweep(self._ring_ids)


def _sweep_at_exit(ring_ids: set[str], before: frozenset[str]) -> None:
    _sweep(ring_ids or segment.rings().keys() - before)


def _sweep(ring_ids: set[str]) -> None:
    deadline = time.monotonic() + _TIMEOUT_S
    while True:
        segment.sweep()
        ring_ids.intersection_update(segment.rings())
        # Where this process itself is still in a ring, it will be the last to leave.
        if all(map(attachment.is_attached, ring_ids)) or time.monotonic() > deadline:
            return
        time.sleep(_SLICE_S)
