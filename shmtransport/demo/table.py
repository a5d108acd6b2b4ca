"""A report for people, in 80 columns."""

from itertools import groupby

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from shmtransport.demo.report import Machine, Report, Row
from shmtransport.demo.transports import SharedMemory


def render(report: Report) -> RenderableType:
    """The rows with their ratios, whether all went well, and on which machine."""
    table = Table(box=None, padding=(0, 0, 0, 2), header_style="dim", show_edge=False)
    table.add_column(no_wrap=True)
    for heading in ("time", "GB/s", "slower", "by socket", "faults"):
        table.add_column(heading, justify="right", no_wrap=True)
    for _, rows in groupby(report.rows, key=lambda row: (row.images, row.dtype)):
        _add_group(table, list(rows))
    title = Text("From images in the frontend's hands to tensors in the engine's", "bold")
    return Group("", title, "", table, "", _verdict(report), machine_line(report.machine), "")


def _add_group(table: Table, rows: list[Row]) -> None:
    first = rows[0]
    plural = "image" if first.images == 1 else "images"
    if table.row_count:
        table.add_row()
    table.add_row(Text(f"{first.images} {plural}, {first.dtype}, {_size(first.payload_nbytes)}", "bold"))
    (ours,) = (row for row in rows if row.transport == SharedMemory.name)
    for row in rows:
        table.add_row(
            f"  {row.transport}",
            time_of(row.seconds),
            f"{row.payload_nbytes / row.seconds / 1e9:.1f}",
            "" if row is ours else f"{row.seconds / ours.seconds:.1f} ×",
            _size(row.wire_nbytes),
            f"{row.faults_per_message:,.0f}",
            style="green" if row is ours else "",
        )


def _verdict(report: Report) -> Text:
    verdict = Text()
    if report.verified:
        verdict.append("✓ ", "green").append(f"all {report.images_verified:,} images arrived with every byte right")
    else:
        verdict.append("✗ some images arrived with wrong bytes", "red")
    verdict.append("\n")
    if report.leaked_nbytes:
        verdict.append(f"✗ {report.leaked_nbytes:,} bytes are left in /dev/shm", "red")
    else:
        verdict.append("✓ ", "green").append("nothing is left in /dev/shm")
    return verdict


def machine_line(machine: Machine) -> Text:
    cores = f"{machine.cores} core{'s' * (machine.cores != 1)}"
    versions = f"Python {machine.python}, torch {machine.torch}, ZMQ {machine.zmq}"
    return Text(f"{machine.cpu}, {cores}, Linux {machine.kernel}\n{versions}", "dim")


def time_of(seconds: float) -> str:
    if seconds < 1:
        return f"{seconds * 1e3:.2f} ms" if seconds < 0.01 else f"{seconds * 1e3:.0f} ms"
    return f"{seconds:.2f} s"


def _size(nbytes: float) -> str:
    for unit in ("B", "kB", "MB"):
        if nbytes < 1000:
            return f"{nbytes:.3g} {unit}"
        nbytes /= 1000
    return f"{nbytes:.3g} GB"
