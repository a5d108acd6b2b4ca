"""``shmtransport ls``: the rings on this host."""

from typing import Annotated

import typer

from shmtransport import observing
from shmtransport.cli.screen import (
    ID_LENGTH,
    console,
    details,
    living_readers,
    name_of,
    print_json,
    state_of,
    table,
    writer_of,
)
from shmtransport.formatting import duration, size


def ls(as_json: Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else.")] = False) -> None:
    """The rings on this host: whose they are, what they hold, who reads.

    A ring whose writer is dead is *orphaned* while readers hold it, and an *orphan* when nobody does: `reap` removes
    it. Of other users' rings only root sees more than that they are there. Looking disturbs no ring.

    The exit status is 0, also where there are none; 2 for a wrong option.
    """
    found = observing.rings()
    if as_json:
        print_json(found)
        return
    screen = console()
    if not found:
        screen.print("no ring on this host: none of this user's, and no other's in /dev/shm")
        return
    rows = table(
        "ring",
        "state",
        "writer",
        "pid",
        "backing",
        "used",
        "of",
        "blocks",
        "readers",
        "age",
        left=("ring", "state", "writer"),
        shrinks="writer",
    )
    for each in found:
        seen = each.statistics
        if seen is None:
            rows.add_row(each.ring_id[:ID_LENGTH], state_of(each), f"user {each.uid}", "", each.backing)
            continue
        writer = writer_of(seen)
        rows.add_row(
            each.ring_id[:ID_LENGTH],
            state_of(each),
            name_of(writer, role=False) if writer else "",
            str(writer.pid) if writer else "",
            each.backing,
            size(seen.used_nbytes),
            size(seen.capacity_nbytes),
            str(seen.blocks),
            str(living_readers(seen)),
            duration(seen.age_s),
        )
    screen.print(rows, *details(found), sep="\n")
