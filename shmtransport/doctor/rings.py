"""Rings of this host, and what looks like them: orphans, strangers, what is damaged. Nothing is removed here."""

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

from shmtransport import observing, segment
from shmtransport.doctor.findings import Finding, Level
from shmtransport.doctor.situation import Situation
from shmtransport.formatting import size
from shmtransport.observing import Found, State
from shmtransport.segment.room import SHM_DIRECTORY

_REAP: Final = "shmtransport reap"
_BAD: Final[dict[State, tuple[Level, str, str]]] = {
    "orphan": ("warning", "left by processes that are dead; the next start removes it", _REAP),
    "orphaned": ("note", "its writer is dead, and readers still hold it", "end them: {holders}"),
    "foreign": ("note", "of another version of shmtransport", "install one version in all processes that share a ring"),
    "damaged": ("warning", "damaged, or somebody has taken its name", "once its processes have ended, rm {names}"),
    "silent": ("warning", "its writer is stopped: nobody can join it", "kill -CONT its writer, or end it"),
}
"""By state: how bad, what is said of it, what mends it. Of the others there is nothing to say."""


def rings(_: Situation) -> Iterator[Finding]:
    """All whose names this user sees."""
    uid, found, planted = os.geteuid(), observing.rings(), dict(_planted())
    for owner in sorted(set(planted.values())):
        names = [name for name, of in planted.items() if of == owner]
        text = f"expected names that begin with shmt-{uid}- to be of user {uid}, {len(names)} are of user {owner}"
        remedy = f"find {SHM_DIRECTORY} -name 'shmt-{uid}-*' -uid {owner} -delete"
        yield Finding("rings", "warning", text, remedy)
    taken = {name.split("-")[2] for name in planted}
    yield from (
        _finding(ring) for ring in found if ring.state in _BAD and ring.uid == uid and ring.ring_id not in taken
    )
    alive = [ring.statistics.reserved_nbytes for ring in found if ring.state == "alive" and ring.statistics is not None]
    text = f"{len(alive)} of living writers, {size(sum(alive))}" if alive else "none of living writers"
    others = sum(ring.uid != uid for ring in found)
    yield Finding("rings", "ok", f"{text}; {others} of other users" if others else text)


def _planted() -> Iterator[tuple[str, int]]:
    """Names of this user's rings that are somebody else's files, and whose. They can only get in the way of a ring that
    grows, and stay until their owner or root removes them."""
    ours = re.compile(f"shmt-{os.geteuid()}-[0-9a-f]{{32}}-[0-9]{{1,4}}")
    for path in filter(lambda path: ours.fullmatch(path.name), SHM_DIRECTORY.glob("shmt-*")):
        with suppress(FileNotFoundError):  # removed meanwhile
            if (owner := path.lstat().st_uid) != os.geteuid():
                yield path.name, owner


def _finding(ring: Found) -> Finding:
    level, what, remedy = _BAD[ring.state]
    names = " ".join(segment.rings().get(ring.ring_id, []))
    holders = holding = ""
    if ring.statistics is not None:
        holding = f", {size(ring.statistics.reserved_nbytes)} of {ring.backing}"
        holders = ", ".join(f"pid {process.pid}" for process in ring.statistics.processes if process.alive)
    detail = f" ({ring.detail})" if ring.detail else ""
    text = f"ring {ring.ring_id}{holding}: {what}{detail}"
    return Finding("rings", level, text, remedy.format(holders=holders, names=names))
