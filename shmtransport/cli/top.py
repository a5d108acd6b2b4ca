"""``shmtransport top``: rings at work, drawn anew each second."""

import sys
import time
from collections.abc import Iterator
from typing import Annotated, Final

import msgspec
import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from shmtransport import observing
from shmtransport.cli.screen import ID_LENGTH, REASONS, console, details, print_json, process_table, state_of
from shmtransport.formatting import duration, size
from shmtransport.observing import Found
from shmtransport.statistics import Process, RingStatistics

_BAR_COLUMNS: Final = 20


class Rates(msgspec.Struct, frozen=True):
    """What a ring's processes did since the look before, a second."""

    written_nbytes: float
    blocks: float
    opened_nbytes: float
    copy_gbps: float
    """While put copied; 0 where it did not."""
    inline: dict[str, int]
    """Transfers since the look before, by reason; those that did not happen are left out."""


class Picture(msgspec.Struct, frozen=True):
    """One look at all rings."""

    interval_s: float
    rings: list[Found]
    rates: dict[str, Rates]
    """By ring id; of rings that can be read."""


def top(
    interval: Annotated[float, typer.Option(metavar="SECONDS", min=0.1, help="From picture to picture.")] = 1.0,
    count: Annotated[int, typer.Option(metavar="N", min=0, help="So many pictures; 0: until Ctrl-C.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="A line of JSON a picture.")] = False,
) -> None:
    """Rings at work: bytes a second, who holds what and since when, what goes inline and why.

    In a terminal the picture is drawn in its place, until Ctrl-C. Into a pipe one is printed after another, and one in
    all without --count. Looking costs a ring's processes nothing that can be measured.

    The exit status is 0; 2 for a wrong option.
    """
    screen = console()
    pictures = _pictures(interval, count or (0 if screen.is_terminal or as_json else 1))
    try:
        if as_json:
            for picture in pictures:
                print_json(picture)
        elif screen.is_terminal:
            with Live(console=screen, auto_refresh=False, vertical_overflow="ellipsis") as live:
                for picture in pictures:
                    live.update(_drawn(picture, screen), refresh=True)
        else:
            for picture in pictures:
                screen.print(_drawn(picture, screen))
                sys.stdout.flush()
    except KeyboardInterrupt:
        raise typer.Exit(0) from None


def _pictures(interval_s: float, count: int) -> Iterator[Picture]:
    """The first one comes after the first interval: rates are differences."""
    before, then_s = _by_id(), time.monotonic()
    number = 0
    while count == 0 or number < count:
        time.sleep(interval_s)
        found = observing.rings()
        now_s = time.monotonic()
        rates = {
            each.ring_id: _rates(before.get(each.ring_id), each.statistics, now_s - then_s)
            for each in found
            if each.statistics is not None
        }
        yield Picture(now_s - then_s, found, rates)
        before, then_s = {each.ring_id: each.statistics for each in found}, now_s
        number += 1


def _by_id() -> dict[str, RingStatistics | None]:
    return {each.ring_id: each.statistics for each in observing.rings()}


def _rates(before: RingStatistics | None, now: RingStatistics, seconds: float) -> Rates:
    """A process that was not there before has counted from 0."""
    old = {process.peer_id: process for process in before.processes} if before is not None else {}
    pairs = [(old.get(process.peer_id), process) for process in now.processes]

    def grown(name: str) -> float:
        return sum(float(getattr(new, name)) - float(getattr(was, name, 0)) for was, new in pairs)

    copy_s = grown("copy_s")
    inline = {
        reason.name.lower(): sum(_inline_since(was, new, reason.name.lower()) for was, new in pairs)
        for reason in REASONS
    }
    return Rates(
        written_nbytes=grown("written_nbytes") / seconds,
        blocks=grown("writes") / seconds,
        opened_nbytes=grown("opened_nbytes") / seconds,
        copy_gbps=grown("copied_nbytes") / copy_s / 1e9 if copy_s else 0.0,
        inline={reason: number for reason, number in inline.items() if number},
    )


def _inline_since(was: Process | None, new: Process, reason: str) -> int:
    return new.inline.get(reason, 0) - (was.inline.get(reason, 0) if was is not None else 0)


def _drawn(picture: Picture, screen: Console) -> RenderableType:
    rings = [each for each in picture.rings if each.statistics is not None]
    others = [each for each in picture.rings if each.statistics is None]
    parts: list[RenderableType] = [
        Text(f"{time.strftime('%H:%M:%S')}, rates of the last {duration(picture.interval_s)}", "dim")
    ]
    for each in rings:
        parts += _ring(each, picture.rates[each.ring_id], unicode=(screen.encoding or "").lower().startswith("utf"))
    if others:
        parts += ["", *details(others)]
    if not picture.rings:
        parts.append("no ring on this host")
    return Group(*parts)


def _ring(found: Found, rates: Rates, *, unicode: bool) -> Iterator[RenderableType]:
    seen = found.statistics
    if seen is None:
        return
    yield ""
    yield Text.assemble(
        (found.ring_id[:ID_LENGTH], "bold"), "  ", state_of(found), f"  {seen.backing}, {duration(seen.age_s)} old"
    )
    filled = round(_BAR_COLUMNS * seen.used_nbytes / max(seen.capacity_nbytes, 1))
    bar = ("█" if unicode else "#") * filled + ("░" if unicode else ".") * (_BAR_COLUMNS - filled)
    yield (
        f"{bar} {size(seen.used_nbytes)} of {size(seen.capacity_nbytes)}, {seen.blocks} blocks, "
        f"largest free {size(seen.largest_free_nbytes)}"
    )
    copying = f", copied at {rates.copy_gbps:.1f} GB/s" if rates.copy_gbps else ""
    yield (
        f"written {size(round(rates.written_nbytes))}/s in {rates.blocks:.0f} blocks/s{copying}; "
        f"opened {size(round(rates.opened_nbytes))}/s"
    )
    if seen.inline:
        counts = [f"{reason} {count:,} (+{rates.inline.get(reason, 0):,})" for reason, count in seen.inline.items()]
        yield Text(f"inline: {', '.join(counts)}", "yellow" if rates.inline else "")
    yield process_table(seen.processes)
