"""Looks that may hang, take down the process, or print: each in a child process, with a deadline."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress

_END_TIMEOUT_S = 1.0


class ChildError(Exception):
    """The child did not answer; says why."""


def answer_of(arguments: Sequence[str], *, timeout_s: float, environment: Mapping[str, str]) -> bytes:
    """What Python with these arguments, and this process's search path, writes to its standard output.

    Raises `ChildError` if it ends otherwise than with status 0, or not in time; it is killed then, and left alone where
    the kernel does not let it die.
    """
    process = subprocess.Popen(  # noqa: S603 - this very Python, and a module of ours
        [sys.executable, "-P", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**environment, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)},
    )
    try:
        stdout, stderr = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        with suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=_END_TIMEOUT_S)
        raise ChildError(f"no answer within {timeout_s:g} s") from None
    if process.returncode != 0:
        said = stderr.decode(errors="replace").strip().splitlines()
        raise ChildError(said[-1] if said else f"ended with status {process.returncode}")
    return stdout
