"""``shmtransport doctor``: options, findings as they are made or as JSON, and the exit status."""

import sys
from io import TextIOWrapper
from typing import Annotated

import msgspec
import typer
from rich.console import Console

from shmtransport.doctor.examination import examine
from shmtransport.doctor.findings import Report
from shmtransport.doctor.situation import Situation
from shmtransport.doctor.text import rendered, verdict


def doctor(
    mm_processor_cache_gb: Annotated[float, typer.Option(metavar="GIB", min=0, help="What vLLM is given.")] = 4.0,
    api_server_count: Annotated[int, typer.Option(metavar="N", min=1, help="What vLLM is given.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else.")] = False,
) -> None:
    """What will fail on this machine, or be slow, and the one command or setting that mends it.

    Run it as the user, in the container and with the environment and limits of what serves. It changes nothing; where
    vLLM is installed it is imported, in a process of its own, for ten seconds to a minute.

    The exit status is 0 if nothing will fail, 1 if something will, 2 for an option that makes no sense.
    """
    situation = Situation(mm_processor_cache_gb, api_server_count)
    if as_json:
        report = Report.of(list(examine(situation)))
        sys.stdout.write(msgspec.json.encode(report).decode() + "\n")
    else:
        if isinstance(sys.stdout, TextIOWrapper):
            sys.stdout.reconfigure(errors="replace")  # names and paths may be in more than a terminal knows
        console, findings = Console(highlight=False, soft_wrap=True), []
        for finding in examine(situation):
            findings.append(finding)
            console.print(rendered(finding), end="")
        report = Report.of(findings)
        console.print(verdict(report), end="")
    raise typer.Exit(0 if report.ok else 1)
