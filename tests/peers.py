"""A reader in this very process that looks to the ring like another process, for deterministic tests.

OFD locks belong to open file descriptions, so two attachments of one process exclude each other as those of two
processes do. Only the process registry (rule 4) is gone round.
"""

import os

from shmtransport import Reader, _core, attachment, segment

WAITING_OFFSET = 192
"""Of the header's word that is not 0 while the writer waits for room."""


def join_as_if_another_process(ring_id: str, name: str = "reader", *, writable: bool = False) -> Reader:
    """A reader with an index of its own."""
    peer_id = attachment.new_peer_id()
    backing = segment.backing_of(ring_id)
    with backing.opened(ring_id, 0) as fd:
        core = _core.Attachment.join(fd, backing.prefix(ring_id), peer_id, name, os.getpid(), 1)
    place = attachment.Attachment(ring_id, peer_id, core, backing, writable=writable)
    for number in range(core.facts()[1]):
        place.map_segment(number)
    return Reader(place)


def control_of(ring_id: str) -> bytes:
    """A copy of a ring's control segment."""
    with segment.backing_of(ring_id).opened(ring_id, 0) as fd:
        return os.pread(fd, os.fstat(fd).st_size, 0)


def is_waiting(ring_id: str) -> bool:
    """Whether the ring's writer waits for room: the fourth line of the header says so."""
    return int.from_bytes(control_of(ring_id)[WAITING_OFFSET : WAITING_OFFSET + 4], "little") > 0
