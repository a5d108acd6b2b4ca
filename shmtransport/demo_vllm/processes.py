"""A child process as its parent sees it: started, watched, and ended with all that it has started itself."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from shmtransport.segment import sweep

_LOOKS_EVERY_S = 0.2
_END_TIMEOUT_S = 20.0
_SHOWN_LINES = 20


class ServingError(Exception):
    """A child process has ended in disorder, or has reported what cannot be."""


def run_module(module: str, *args: object, environment: Mapping[str, str], log: Path, look: Callable[[], None]) -> None:
    """Runs ``python -m module args``; all that it prints goes to ``log``. ``look`` is called now and then.

    Raises `ServingError`, with the end of the log, if it fails. However this function ends, the process has
    ended: asked to by the end of its standard input, and killed with its group if it does not within 20 s.
    """
    with log.open("wb") as printed:
        # In a process group of its own: Ctrl-C reaches the command, which ends the child in good order.
        process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-m", module, *map(str, args)],
            env=dict(environment),
            stdin=subprocess.PIPE,
            stdout=printed,
            stderr=subprocess.STDOUT,
            process_group=0,
        )
    try:
        while process.poll() is None:
            look()
            try:
                process.wait(_LOOKS_EVERY_S)
            except subprocess.TimeoutExpired:
                pass
    finally:
        _end(process)
    if process.returncode != 0:
        shown = "\n".join(log.read_text(errors="replace").splitlines()[-_SHOWN_LINES:])
        raise ServingError(f"{module} has ended with status {process.returncode}; the end of what it printed:\n{shown}")


def _end(process: subprocess.Popen[bytes]) -> None:
    ended = process.poll() is not None
    try:
        process.communicate(timeout=_END_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        pass
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()
    if not ended:
        sweep()  # what was killed could not remove its names
