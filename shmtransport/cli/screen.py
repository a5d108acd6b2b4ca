"""How commands print: tables of 80 columns, JSON, and what of a ring several of them show."""

import sys
import textwrap
from collections.abc import Iterable, Sequence
from io import TextIOWrapper
from typing import Any, Final

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from shmtransport.formatting import duration, size
from shmtransport.layout import InlineReason
from shmtransport.observing import Found, State
from shmtransport.statistics import Process, RingStatistics

COLUMNS: Final = 80
_WRAPPED: Final[dict[str, Any]] = {"subsequent_indent": 9 * " ", "break_on_hyphens": False}
ID_LENGTH: Final = 8
"""Characters of a ring's id that are shown; any unique beginning names a ring."""

STYLES: Final[dict[State, str]] = {"alive": "green", "orphaned": "yellow", "orphan": "red", "damaged": "red"}
REASONS: Final[dict[InlineReason, str]] = {
    InlineReason.SMALL: "below the threshold, where sockets win",
    InlineReason.NOT_JOINED: "its reader has not joined the ring",
    InlineReason.FULL: "no room after growth and reaping",
    InlineReason.NO_TICKET: "too many handles on their way",
    InlineReason.UNMAPPABLE: "its reader could not map a segment",
    InlineReason.ELSEWHERE: "another host, /dev/shm or user",
    InlineReason.NOT_BACKED: "its sender has no ring to write it into",
}


def console() -> Console:
    """Never wider than 80 columns, so that what a pipe gets is what a terminal shows. Strings are printed as they are:
    another user chooses their rings' names, and what looks like markup in one is none."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # names may be in more than a terminal knows
    made = Console(highlight=False, markup=False)
    made.width = min(made.width, COLUMNS) if made.is_terminal else COLUMNS
    return made


def print_json(value: Any) -> None:
    """One line."""
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")
    sys.stdout.flush()


def table(*headings: str, left: Iterable[str] = (), shrinks: str = "") -> Table:
    """Numbers to the right, the columns in ``left`` to the left. What does not fit is taken from the one of names,
    ``shrinks``."""
    made = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim", show_edge=False)
    for heading in headings:
        made.add_column(heading, justify="left" if heading in left else "right", no_wrap=heading != shrinks)
    return made


def state_of(found: Found) -> Text:
    return Text(found.state, STYLES.get(found.state, "cyan"))


def name_of(process: Process, *, role: bool = True) -> Text:
    """What it calls itself, on one line and without anything that a terminal would obey; cut where there is no room."""
    name = "".join(letter if letter.isprintable() else "?" for letter in process.name) or "?"
    return Text(f"{process.role} {name}" if role else name, no_wrap=True, overflow="ellipsis")


def writer_of(seen: RingStatistics) -> Process | None:
    return next((process for process in seen.processes if process.role == "writer"), None)


def living_readers(seen: RingStatistics) -> int:
    return sum(process.alive and process.role == "reader" for process in seen.processes)


def process_table(processes: Sequence[Process]) -> Table:
    """Who has a place, and what it holds."""
    made = table(
        "process", "pid", "", "joined", "blocks", "bytes", "oldest", "unopened", left=("process", ""), shrinks="process"
    )
    for each in processes:
        holds = (size(each.leased_nbytes), duration(each.oldest_lease_s)) if each.leased_blocks else ("", "")
        made.add_row(
            name_of(each),
            str(each.pid),
            Text("alive", "green") if each.alive else Text("dead", "red"),
            duration(each.joined_s),
            str(each.leased_blocks),
            *holds,
            str(each.unopened or ""),
        )
    return made


def details(found: Iterable[Found]) -> list[Text]:
    """Why there are no statistics of some of them."""
    return [
        Text(textwrap.fill(f"{each.ring_id[:ID_LENGTH]} {each.detail}", COLUMNS, **_WRAPPED))
        for each in found
        if each.detail
    ]
