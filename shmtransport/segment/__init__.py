"""Shared memory as the rest of the package sees it: two backings behind one face (`backing.Backing`).

    posix    named segments in /dev/shm, the default; any process of the user opens them by name
    memfd    anonymous, sealed segments, handed over a unix socket; not bound by the size of /dev/shm, and gone with
             the last process that maps them, however it ends

A ring has one backing for life; its header names it, and a reader finds the ring's id in one or the other.
"""

import os
from typing import Final, cast, get_args

from shmtransport.config import BackingChoice, BackingName
from shmtransport.errors import ConfigError
from shmtransport.segment import room
from shmtransport.segment.backing import Backing
from shmtransport.segment.memfd import Memfd
from shmtransport.segment.posix import Posix
from shmtransport.segment.refusals import host_errors

VARIABLE: Final = "SHMTRANSPORT_BACKING"

_POSIX, _MEMFD = Posix(), Memfd()
BY_NAME: Final[dict[BackingName, Backing]] = {"posix": _POSIX, "memfd": _MEMFD}


def choose(asked: BackingChoice, capacity_nbytes: int) -> Backing:
    """The backing for a new ring.

    ``"auto"`` is what the environment variable SHMTRANSPORT_BACKING says; without it posix if /dev/shm has room for
    the whole capacity now, else memfd.
    """
    if asked == "auto":
        text = os.environ.get(VARIABLE, "auto").strip().lower()
        if text not in get_args(BackingChoice):
            raise ConfigError(VARIABLE, text, f"one of {', '.join(get_args(BackingChoice))}")
        asked = cast(BackingChoice, text)
    if asked == "auto":
        asked = "posix" if capacity_nbytes <= room.filesystem_nbytes() else "memfd"
    return BY_NAME[asked]


def backing_of(ring_id: str) -> Backing:
    """That of a ring of this host. posix where there is no such ring: opening it there says so.

    Names in /dev/shm are looked at first: others see those ids, and could make a socket's name of one.
    """
    return _MEMFD if _MEMFD.is_known(ring_id) and not _POSIX.is_known(ring_id) else _POSIX


def free_nbytes() -> tuple[int, str]:
    """Most bytes that a new ring could take on one backing or the other, and what sets that limit."""
    return max(backing.free_nbytes() for backing in BY_NAME.values())


def rings() -> dict[str, list[str]]:
    """Paths that this user's rings have, on either backing, by ring id."""
    return {ring_id: paths for backing in BY_NAME.values() for ring_id, paths in backing.rings().items()}


def sweep() -> list[str]:
    """Removes what dead processes left behind, on either backing; returns the ids of the rings that went.

    Touches no ring that anybody holds, and none of another user's. Every `Ring.create` does it first. Any thread; after
    a fork too. Raises `SegmentError` where the host refuses the look.
    """
    with host_errors("look for what dead processes left"):
        return [ring_id for backing in BY_NAME.values() for ring_id in backing.sweep()]
