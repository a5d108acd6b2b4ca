"""A report for people, in 80 columns."""

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from shmtransport.demo.report import Machine
from shmtransport.demo_vllm.report import Report, Row


def render(report: Report, vllm_version: str, machine: Machine) -> RenderableType:
    """The rows with their ratios, whether all went well, and on which machine."""
    table = Table(box=None, padding=(0, 0, 0, 2), header_style="dim", show_edge=False)
    table.add_column(no_wrap=True)
    for heading in ("hop 1\nms", "hop 2\nms", "both\nms", "\nslower", "hop 1\nkB", "hop 2\nkB", "request\nms"):
        table.add_column(heading, justify="right", no_wrap=True)
    for off, on in zip(report.rows[::2], report.rows[1::2], strict=True):
        _add_group(table, off, on)
    title = Text("Real vLLM: from pixels in the frontend's hands to pixels in the worker's", "bold")
    return Group("", title, "", table, "", _verdict(report), _machine(machine, vllm_version), "")


def _add_group(table: Table, off: Row, on: Row) -> None:
    if table.row_count:
        table.add_row()
    plural = "image" if on.images == 1 else "images"
    table.add_row(Text(f"{on.images} {plural}", "bold"))
    for row in (on, off):
        table.add_row(
            f"  plugin {'on' if row.plugin else 'off'}",
            _number(row.hop1_seconds * 1e3),
            _number((row.hop2_send_seconds + row.hop2_receive_seconds) * 1e3),
            _number(row.moving_seconds * 1e3),
            "" if row is on else f"{off.moving_seconds / on.moving_seconds:.1f} ×",
            _number(row.hop1_wire_nbytes / 1e3),
            _number(row.hop2_wire_nbytes / 1e3),
            _number(row.request_seconds * 1e3),
            style="green" if row is on else "",
        )


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _verdict(report: Report) -> Text:
    verdict = Text()
    if report.identical:
        verdict.append("✓ ", "green").append("the same answers with the plugin off and on, bit by bit\n")
    else:
        verdict.append("✗ the answers differ with the plugin off and on\n", "red")
    if report.control_differs:
        verdict.append("✓ ", "green").append("one image replaced gives another answer\n")
    else:
        verdict.append("✗ the answers do not depend on the images, so that they prove nothing\n", "red")
    if report.leaked_nbytes:
        verdict.append(f"✗ {report.leaked_nbytes:,} bytes are left in /dev/shm", "red")
    else:
        verdict.append("✓ ", "green").append("nothing is left in /dev/shm")
    return verdict


def _machine(machine: Machine, vllm_version: str) -> Text:
    cores = f"{machine.cores} core{'s' * (machine.cores != 1)}"
    versions = f"vLLM {vllm_version}, Python {machine.python}, torch {machine.torch}, ZMQ {machine.zmq}"
    return Text(f"{machine.cpu}, {cores}, Linux {machine.kernel}\n{versions}", "dim")
