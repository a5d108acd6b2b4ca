"""``shmtransport bench``: whether it pays on this machine, in half a minute."""

import sys
from collections.abc import Iterator
from itertools import groupby
from typing import Annotated, Final

import typer
from rich.console import Console, RenderableType
from rich.text import Text

from shmtransport.cli.racing import Report, Row, race
from shmtransport.cli.screen import console, print_json
from shmtransport.demo.engine_process import EngineError
from shmtransport.demo.table import machine_line, time_of
from shmtransport.errors import ShmTransportError

_BAR_COLUMNS: Final = 34
_PAYS: Final = 1.1
"""So much longer a rival has to take; less may be chance."""


def bench(
    seconds: Annotated[float, typer.Option(metavar="N", min=0, help="For all turns together.")] = 20.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else.")] = False,
) -> None:
    """Whether it pays on this machine: tensors to another process, against multipart ZMQ and pickle, by turns.

    Every byte is checked at the other end. All memory is touched before anything is measured: the first touch of fresh
    memory, which a cold start pays, is not in these figures.

    The exit status is 0 if every byte was right and nothing is left behind, else 1; 2 for an option without sense.
    """
    progress = Console(stderr=True)

    def watch(payload: str) -> None:
        if progress.is_terminal:
            progress.print(f"measuring {payload}", style="dim")

    try:
        report = race(seconds, watch)
    except (EngineError, ShmTransportError) as error:
        sys.stderr.write(f"shmtransport bench: {error}\n")
        raise typer.Exit(1) from None
    if as_json:
        print_json(report)
    else:
        screen = console()
        screen.print(*_shown(report, bar="█" if screen.encoding.lower().startswith("utf") else "#"), sep="\n")
    raise typer.Exit(0 if report.ok else 1)


def _shown(report: Report, bar: str) -> Iterator[RenderableType]:
    for payload, group in groupby(report.rows, key=lambda row: row.payload):
        rows = list(group)
        longest = max(row.seconds for row in rows)
        yield Text(payload, "bold")
        for row in rows:
            ours = row is rows[0]
            filled = bar * max(round(_BAR_COLUMNS * row.seconds / longest), 1)
            ratio = "" if ours else f"{row.ratio_to_shmtransport:.1f} x"
            gbps = f"{row.payload_nbytes / row.seconds / 1e9:.1f} GB/s"
            text = f"  {row.transport:<14}{filled:<{_BAR_COLUMNS}} {time_of(row.seconds):>8} {gbps:>10} {ratio:>7}"
            yield Text(text, "green" if ours else "")
    if report.left_out:
        yield f"left out, as there is too little memory: {', '.join(report.left_out)}"
    yield ""
    yield Text(_verdict(report), "bold")
    yield machine_line(report.machine)


def _verdict(report: Report) -> str:
    """From what was measured, and nothing else."""
    if not report.verified:
        return "some bytes arrived wrong: please report it"
    if report.leaked_nbytes:
        return f"{report.leaked_nbytes:,} bytes are left in shared memory: please report it"
    pays: list[list[Row]] = []
    for rows in reversed(list(_by_payload(report.rows))):
        if _best_rival(rows) < _PAYS:
            break
        pays.insert(0, rows)
    if not pays:
        return "on this machine it does not pay for the largest of these payloads"
    said = [f"{_best_rival(rows):.1f} times as long at {rows[0].payload}" for rows in pays]
    return f"it pays from {pays[0][0].payload} on: the best of the others takes {', '.join(said)}"


def _by_payload(rows: list[Row]) -> Iterator[list[Row]]:
    return (list(group) for _, group in groupby(rows, key=lambda row: row.payload))


def _best_rival(rows: list[Row]) -> float:
    return min(row.ratio_to_shmtransport for row in rows[1:])
