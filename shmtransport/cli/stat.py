"""``shmtransport stat RING``: one ring, with all that its processes have counted."""

import sys
from collections.abc import Iterable
from typing import Annotated, NoReturn

import typer
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from shmtransport import observing
from shmtransport.cli.screen import REASONS, console, name_of, print_json, process_table, state_of, table
from shmtransport.formatting import duration, size
from shmtransport.observing import Found
from shmtransport.statistics import Process, RingStatistics


def stat(
    ring: Annotated[str, typer.Argument(metavar="RING", help="A ring's id, or a beginning of it that no other has.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else.")] = False,
) -> None:
    """One ring: who holds what and since when, what was moved, what went inline and why.

    The exit status is 0; 1 if there is no such ring, more than one, or it cannot be read; 2 for a wrong option.
    """
    found = [each for each in observing.rings(lambda ring_id: ring_id.startswith(ring)) if ring]
    if len(found) != 1:
        ids = "".join(f"\n  {each.ring_id}" for each in found)
        _fail(f"{len(found) or 'no'} rings on this host have an id that begins with {ring!r}{':' if ids else ''}{ids}")
    (one,) = found
    if as_json:
        print_json(one)
    elif one.statistics is None:
        _fail(f"ring {one.ring_id} is {one.state}: {one.detail}")
    else:
        console().print(*_shown(one, one.statistics), sep="\n")
    raise typer.Exit(0 if one.statistics is not None else 1)


def _fail(message: str) -> NoReturn:
    sys.stderr.write(f"shmtransport stat: {message}\n")
    raise typer.Exit(1)


def _shown(found: Found, seen: RingStatistics) -> Iterable[RenderableType]:
    yield Text.assemble(
        (f"ring {found.ring_id}", "bold"), "  ", state_of(found), f"  {seen.backing}, {duration(seen.age_s)} old"
    )
    yield (
        f"{size(seen.used_nbytes)} used of {size(seen.capacity_nbytes)}; {size(seen.reserved_nbytes)} reserved in "
        f"{seen.segments} segments"
    )
    yield f"{seen.blocks} blocks of at most {seen.entries}; largest free extent {size(seen.largest_free_nbytes)}\n"
    yield process_table(seen.processes)
    yield ""
    yield _counters(seen.processes)
    if inline := list(_inline(seen.processes)):
        yield "\ninline, which is right but slower:"
        yield from inline


def _counters(processes: list[Process]) -> Table:
    made = table(
        "process",
        "written",
        "blocks",
        "GB/s",
        "sent",
        "opened",
        "bytes",
        "waited",
        "revoked",
        left=("process",),
        shrinks="process",
    )
    for each in processes:
        speed = f"{each.copied_nbytes / each.copy_s / 1e9:.1f}" if each.copy_s else ""
        made.add_row(
            name_of(each),
            size(each.written_nbytes) if each.writes else "",
            str(each.writes or ""),
            speed,
            str(each.shared or ""),
            str(each.opened or ""),
            size(each.opened_nbytes) if each.opened else "",
            duration(each.wait_s) if each.wait_s else "",
            str(each.revoked or ""),
        )
    return made


def _inline(processes: list[Process]) -> Iterable[str]:
    for reason, meaning in REASONS.items():
        count = sum(process.inline.get(reason.name.lower(), 0) for process in processes)
        if count:
            yield f"{count:>12,} {reason.name.lower():<12} {meaning}"
