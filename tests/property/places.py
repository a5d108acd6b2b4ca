"""Several places in one ring within one process, and the words that they share.

To the core each place is a process of its own: it has a lock on a description of its own, and open file
description locks exclude each other even within one process. So a test can let "processes" join, die and
leave step by step, in an order that it chooses.
"""

import mmap
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt

from shmtransport import layout, segment

Words = npt.NDArray[np.uint64]

_TICKETS_OFFSET = layout.ENTRIES_OFFSET - 8 * layout.INDICES * layout.TICKETS


class SharedWords:
    """The block table's and the tickets' words as they lie in the control segment."""

    def __init__(self, ring_id: str, entries: int) -> None:
        with segment.backing_of(ring_id).opened(ring_id, 0) as fd:
            self._memory = mmap.mmap(fd, layout.control_nbytes(entries), prot=mmap.PROT_READ)
        words = np.frombuffer(self._memory, dtype="<u8")
        stride = layout.ENTRY_NBYTES // 8
        self.blocks: Words = words[layout.ENTRIES_OFFSET // 8 :: stride][:entries]
        """One word an entry."""
        self.tickets: Words = words[_TICKETS_OFFSET // 8 : layout.ENTRIES_OFFSET // 8].reshape(layout.INDICES, -1)
        """One row of words an index."""


@contextmanager
def no_name_is_left(ring_id: str) -> Iterator[None]:
    """Fails if /dev/shm still has a name of the ring at the end of the block."""
    yield
    assert ring_id not in segment.rings()
