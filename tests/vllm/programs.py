"""Programs that use vLLM in processes of their own, found again when they have died, and told what to do."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import psutil

from tests.support import ROOT
from tests.vllm.serving import ENVIRONMENT, SCENARIOS
from tests.vllm.serving import binding as binding_of

TIMEOUT_S = 120.0
"""For loading a model, and for all else that is waited for."""


class Program:
    """``python command`` with the plugin as ``scenario`` says, and all processes that it starts.

    They have a session of their own, so that orphans are found too. At the end of a ``with`` block those that
    still run are killed.
    """

    def __init__(
        self, scenario: str, folder: Path, *command: object, bound: bool = True, keep: tuple[int, ...] = ()
    ) -> None:
        """``bound``: its worker to the CPU that `serving.binding` says. ``keep``: descriptors that it inherits."""
        self.scenario = scenario
        self._log = folder / f"{scenario}.log"
        binding = {"VLLM_CPU_OMP_THREADS_BIND": binding_of(scenario)} if bound else {}
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, *map(str, command)],
                cwd=ROOT,
                env={**_inherited(), **ENVIRONMENT, **SCENARIOS[scenario], **binding},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=keep,
            )

    def log(self) -> str:
        """What all of them have printed."""
        return self._log.read_text()

    def alive(self) -> list[psutil.Process]:
        """Those of its processes that have not ended."""
        return [process for process in psutil.process_iter() if _is_alive_in(process, self.process.pid)]

    def wait(self) -> int:
        """Waits until it and all that it has started have ended; its exit status."""
        status = self.process.wait(TIMEOUT_S)
        poll(lambda: not self.alive())
        return status

    def kill(self) -> None:
        for process in self.alive():
            process.kill()
        self.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()


class Told(Program):
    """A program that does what it is told and answers: a line of JSON each way. It ends when it is told no more."""

    def __init__(self, scenario: str, folder: Path, module: str, *arguments: object) -> None:
        self._line, theirs = socket.socketpair()
        with theirs:
            super().__init__(scenario, folder, "-m", module, *arguments, theirs.fileno(), keep=(theirs.fileno(),))
        self._line.settimeout(TIMEOUT_S)
        self._answers = self._line.makefile("r")

    def tell(self, what: str, *arguments: object) -> None:
        """Returns at once."""
        self._line.sendall(json.dumps([what, *arguments]).encode() + b"\n")

    def answer(self) -> Any:
        """What it says next. The test fails, with the end of the log, if that does not come."""
        try:
            line = self._answers.readline()
        except TimeoutError:
            line = ""
        if not line:
            raise AssertionError(f"no answer with the plugin {self.scenario}\n{self.log()[-6000:]}")
        return json.loads(line)

    def do(self, what: str, *arguments: object) -> Any:
        self.tell(what, *arguments)
        return self.answer()

    def hang_up(self) -> None:
        """Tells it no more; `wait` for its end."""
        self._answers.close()
        self._line.close()

    def kill(self) -> None:
        self.hang_up()
        super().kill()


def _inherited() -> dict[str, str]:
    """Without VLLM_PLUGINS, so that vLLM loads the plugin."""
    return {name: value for name, value in os.environ.items() if name != "VLLM_PLUGINS"}


def poll(condition: Callable[[], bool]) -> None:
    """As `wait_until`, but it looks only ten times a second: vLLM loads meanwhile, and has few CPUs."""
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not so within {TIMEOUT_S} s: {condition}")
        time.sleep(0.1)


def _is_alive_in(process: psutil.Process, session: int) -> bool:
    """A zombie is alive while it has other threads: they hold its memory and its locks."""
    try:
        if os.getsid(process.pid) != session:
            return False
        return process.status() != psutil.STATUS_ZOMBIE or len(os.listdir(f"/proc/{process.pid}/task")) > 1
    except (ProcessLookupError, FileNotFoundError, psutil.NoSuchProcess):
        return False
