"""Rings seen from outside: by an operator, a monitor, a test; by whoever is no part of their traffic.

A look takes no place in the ring, no lease and no lock, and maps nothing: it reads a copy of the control segment, and
asks the kernel who is alive. A ring that cannot be read is an answer (`Found.state`), not an error.
"""

import errno
import os
from collections.abc import Callable
from typing import Final, Literal, TypeAlias

import msgspec

from shmtransport import _core, segment, statistics
from shmtransport.config import BackingName
from shmtransport.errors import CorruptSegmentError, LayoutMismatchError, SegmentError, SegmentNotFoundError
from shmtransport.layout import WRITER
from shmtransport.segment.backing import Backing
from shmtransport.segment.refusals import host_errors
from shmtransport.statistics import RingStatistics, Unopened

State: TypeAlias = Literal[
    "alive", "orphaned", "orphan", "unready", "gone", "foreign", "denied", "damaged", "silent"
]  # fmt: skip
"""What became of a ring:

    alive      its writer lives
    orphaned   its writer is dead; readers still hold what they have, and the last of them removes it
    orphan     nobody holds it: the next start removes it, or `shmtransport.sweep`. Of an anonymous ring (memfd) only
               its writer can be asked who reads: where that is dead, readers may hold memory, which goes with them
    unready    its writer is creating it just now
    gone       it went while it was looked at
    foreign    of another version of shmtransport, which can read it
    denied     another user's
    damaged    its sizes contradict each other, or somebody has taken its name
    silent     (memfd) its writer is alive but does not answer: it is stopped
"""

_OUR_OWN: Final = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}
_STATES: Final[dict[int | None, State]] = {errno.EACCES: "denied", errno.EPERM: "denied", errno.ETIMEDOUT: "silent"}


class Found(msgspec.Struct, frozen=True):
    """A ring of this host. A plain value: any thread, after a fork too."""

    ring_id: str
    """32 hexadecimal characters."""
    uid: int
    """Of the user whose ring it is."""
    backing: BackingName
    """``"posix"`` or ``"memfd"``."""
    state: State
    """What became of it."""
    detail: str
    """Why there are no statistics; empty where there are."""
    statistics: RingStatistics | None
    """None where the ring cannot be read."""


def look(ring_id: str) -> RingStatistics:
    """What one of this user's rings is doing. About 0.3 ms, with a full table of 16384 blocks some 10.

    Raises `SegmentNotFoundError` (no such ring, or it is being created), `SegmentError` (it cannot be read),
    `LayoutError` (another version's, or damaged). Any thread; after a fork too.
    """
    return _look(segment.backing_of(ring_id), os.geteuid(), ring_id)


def rings(wanted: Callable[[str], bool] = lambda ring_id: True) -> list[Found]:  # noqa: ARG005
    """Every ring on this host whose name this user sees and whose id is ``wanted``: their own on either backing, and
    others' in /dev/shm, which only root can read.

    Raises nothing of a single ring's; `SegmentError` where this process has no descriptor or no memory to look with.
    Any thread; after a fork too.
    """
    with host_errors("look at this host's rings"):
        return [
            _found(backing, uid, ring_id)
            for backing in segment.BY_NAME.values()
            for uid, ring_id in backing.known()
            if wanted(ring_id)
        ]


def _look(backing: Backing, uid: int, ring_id: str) -> RingStatistics:
    with backing.looked_at(uid, ring_id) as fd:
        identity, rows, blocks, unopened = _core.look(fd)
    return statistics.of(identity, rows, blocks, lambda index: Unopened(unopened[index], 0, 0))


def _found(backing: Backing, uid: int, ring_id: str) -> Found:
    seen: RingStatistics | None = None
    detail = ""
    state: State
    try:
        seen = _look(backing, uid, ring_id)
        state = _state_of(seen)
    except SegmentNotFoundError as error:
        state, detail = _unready_or_gone(backing, uid, ring_id), str(error)
    except LayoutMismatchError as error:
        state, detail = "foreign", str(error)
    except CorruptSegmentError as error:
        state, detail = "damaged", str(error)
    except OSError as error:
        if error.errno in _OUR_OWN:
            raise
        state, detail = _STATES.get(error.errno, "damaged"), error.strerror or str(error)
    return Found(ring_id, uid, backing.NAME, state, detail, seen)


def _state_of(seen: RingStatistics) -> State:
    if any(process.index == WRITER and process.alive for process in seen.processes):
        return "alive"
    return "orphaned" if any(process.alive for process in seen.processes) else "orphan"


def _unready_or_gone(backing: Backing, uid: int, ring_id: str) -> State:
    """Names without a control segment, or one without a version, are an orphan's if nobody holds a lock byte."""
    try:
        with backing.looked_at(uid, ring_id) as fd:
            return "unready" if _core.held(fd) else "orphan"
    except (SegmentError, OSError):
        return "orphan" if (uid, ring_id) in backing.known() else "gone"
