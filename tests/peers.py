"""A reader in this very process that looks to the ring like another process, for deterministic tests.

OFD locks belong to open file descriptions, so two attachments of one process exclude each other as those of two
processes do. Only the process registry (rule 4) is gone round.
"""

import os

from shmtransport import Reader, _core, attachment, segment


def join_as_if_another_process(ring_id: str, name: str = "reader", *, writable: bool = False) -> Reader:
    """A reader with an index of its own."""
    peer_id = attachment.new_peer_id()
    with segment.opened(ring_id, 0) as fd:
        core = _core.Attachment.join(fd, segment.prefix(ring_id), peer_id, name, os.getpid(), 1)
    place = attachment.Attachment(ring_id, peer_id, core, writable)
    for number in range(core.facts()[1]):
        place.map_segment(number)
    return Reader(place)
