"""A reader in this process that looks to a ring like another process, so that no message between two is timed."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from shmtransport import Reader, Ring, _core
from shmtransport.attachment import Attachment, new_peer_id


@contextmanager
def second_place(ring: Ring) -> Iterator[Reader]:
    """A reader in this process with a place of its own, as another process would have."""
    peer_id = new_peer_id()
    backing = ring.attachment.backing
    with backing.opened(ring.id, 0) as fd:
        core = _core.Attachment.join(fd, backing.prefix(ring.id), peer_id, "bench", os.getpid(), 0)
    place = Attachment(ring.id, peer_id, core, backing, writable=False)
    for number in range(core.facts()[1]):
        place.map_segment(number)
    reader = Reader(place)
    del place, core
    with reader:
        yield reader
