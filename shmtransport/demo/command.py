"""``shmtransport demo``: options, progress, the report in JSON or as a table, and the exit status."""

import signal
import sys
from importlib.util import find_spec
from io import TextIOWrapper
from typing import Annotated, NoReturn

import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from shmtransport.demo.engine_process import EngineError
from shmtransport.demo.frontend import run
from shmtransport.demo.photographs import DTYPES
from shmtransport.demo.report import Report
from shmtransport.demo.room import Room
from shmtransport.demo.settings import Settings
from shmtransport.demo.table import render
from shmtransport.errors import ShmTransportError

_TERMINATED = 128 + signal.SIGTERM


def demo(
    images: Annotated[str, typer.Option(metavar="N,...", help="Images in a request, in this order.")] = "1,10,50",
    requests: Annotated[int, typer.Option(metavar="N", min=1, help="Requests behind each median.")] = 15,
    dtypes: Annotated[str, typer.Option(metavar="NAME,...", help="float32, bfloat16.")] = "float32,bfloat16",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else.")] = False,
) -> None:
    """Real photographs to another process: through shmtransport, by pickle, by plain ZMQ.

    A frontend process prepares requests as a vision-language processor does; an engine process checks every
    byte and embeds every patch. The exit status is 0 only if all bytes were right and no memory is left behind.
    """
    if find_spec("skimage") is None:
        _fail("the demo's photographs need one more package: pip install 'shmtransport[demo]'", status=2)
    wanted = Settings(images=_images(images), dtypes=_dtypes(dtypes), requests=requests)
    room = Room.here()
    settings = wanted.fitted(room)
    if settings != wanted:
        sys.stderr.write(
            f"shmtransport demo: the largest request has {max(settings.images)} images, not {max(wanted.images)}: "
            f"that would take {wanted.room}, and there are {room}\n"
        )
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(_TERMINATED))
    try:
        report = _run(settings)
    except (EngineError, ShmTransportError) as error:
        _fail(str(error), status=1)
    if as_json:
        sys.stdout.write(msgspec.json.encode(report).decode() + "\n")
    else:
        if isinstance(sys.stdout, TextIOWrapper):
            sys.stdout.reconfigure(errors="replace")  # a terminal that knows no × still shows the figures
        Console().print(render(report))
    raise typer.Exit(0 if report.ok else 1)


def _run(settings: Settings) -> Report:
    """With a progress bar where standard error is a terminal; it moves between requests and never during one."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description:<28}"),
        BarColumn(bar_width=24),
        TaskProgressColumn(),
        TimeRemainingColumn(),
    )
    shown = Progress(*columns, console=console, auto_refresh=False, transient=True, disable=not console.is_terminal)
    with shown as progress:
        task = progress.add_task("decoding photographs", total=settings.images_in_all)
        progress.refresh()
        return run(
            settings,
            lambda sent, images: progress.update(task, description=sent, advance=images, refresh=True),
        )


def _images(text: str) -> tuple[int, ...]:
    try:
        numbers = list(dict.fromkeys(int(number) for number in text.split(",")))
    except ValueError:
        numbers = [0]
    if min(numbers) < 1:
        raise typer.BadParameter(f"expected numbers of 1 or more such as 1,10,50, got {text!r}", param_hint="--images")
    return tuple(numbers)


def _dtypes(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(text.split(",")))
    if unknown := [name for name in names if name not in DTYPES]:
        raise typer.BadParameter(f"expected some of {', '.join(DTYPES)}, got {unknown[0]!r}", param_hint="--dtypes")
    return names


def _fail(message: str, *, status: int) -> NoReturn:
    sys.stderr.write(f"shmtransport demo: {message}\n")
    raise typer.Exit(status)
