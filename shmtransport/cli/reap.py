"""``shmtransport reap``: what dead processes left behind."""

import os
from typing import Annotated

import msgspec
import typer

from shmtransport import observing, segment
from shmtransport.cli.screen import ID_LENGTH, console, print_json
from shmtransport.formatting import size
from shmtransport.observing import Found


class Reaped(msgspec.Struct, frozen=True):
    """What went, or would go."""

    dry_run: bool
    rings: list[str]
    """Ids."""
    nbytes: int
    """Of shared memory that came back; what could not be read is not counted."""
    left: list[str]
    """Orphans of this user that are still there."""
    others: list[str]
    """Orphans of other users, which only they can remove, or a process that runs as they do."""


def reap(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go, and remove nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else.")] = False,
) -> None:
    """Removes the rings of this user that nobody holds any more: all their processes are dead.

    Rings that somebody holds are left alone. What a dead reader held in a living ring comes back by itself, when its
    writer needs room. Every start of a process with a ring does the same.

    The exit status is 0; 1 if an orphan of this user is still there afterwards; 2 for a wrong option.
    """
    orphans, others = _orphans()
    if dry_run:
        gone, left = [each.ring_id for each in orphans], list[str]()
    else:
        gone = segment.sweep()
        left = [each.ring_id for each in _orphans()[0]]
    known = {each.ring_id: each.statistics for each in orphans}
    nbytes = sum(seen.reserved_nbytes for ring_id in gone if (seen := known.get(ring_id)) is not None)
    reaped = Reaped(dry_run, gone, nbytes, left, [each.ring_id for each in others])
    if as_json:
        print_json(reaped)
    else:
        console().print(_sentence(reaped))
    raise typer.Exit(1 if left else 0)


def _orphans() -> tuple[list[Found], list[Found]]:
    """Of this user, and of others, whose only root sees."""
    orphans = [each for each in observing.rings() if each.state == "orphan"]
    ours = [each for each in orphans if each.uid == os.geteuid()]
    return ours, [each for each in orphans if each not in ours]


def _sentence(reaped: Reaped) -> str:
    theirs = [f"  {ring_id[:ID_LENGTH]} is another user's: run it as they" for ring_id in reaped.others]
    if not reaped.rings and not reaped.left:
        return "\n".join(["nothing to reap: no dead process of this user has left a ring", *theirs])
    count = f"{len(reaped.rings)} ring{'s' * (len(reaped.rings) != 1)}, {size(reaped.nbytes)}"
    lines = [f"{'would remove' if reaped.dry_run else 'removed'} {count}"]
    lines += [f"  {ring_id[:ID_LENGTH]}" for ring_id in reaped.rings]
    lines += [
        f"  {ring_id[:ID_LENGTH]} is still there: somebody else's file, or not ours to remove"
        for ring_id in reaped.left
    ]
    return "\n".join([*lines, *theirs])
