"""The engine as its frontend sees it: a process that is started, answers, and ends."""

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from shmtransport.demo.messages import Receipt
from shmtransport.demo.sockets import Socket

START_TIMEOUT_S = 120.0
_SLICE_MS = 100
_END_TIMEOUT_S = 10.0


class EngineError(Exception):
    """The engine has ended before its time or in disorder, or has given no answer."""


class EngineProcess:
    """Starts the engine, which connects to the sockets in ``directory``; `begin` waits until it is ready.

    It ends with the ``with`` block: asked to by the end of its standard input, and killed if it does not within
    10 s. Its standard input also ends when this process does, however that comes about.
    """

    def __init__(self, directory: Path, receipts: Socket, options: Sequence[str], join: Callable[[], None]) -> None:
        command = [sys.executable, "-m", "shmtransport.demo.engine", str(directory), *options]
        # In a process group of its own: Ctrl-C reaches the frontend, which ends the engine in good order.
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, process_group=0)  # noqa: S603
        self._receipts = receipts
        self._join = join

    def begin(self) -> None:
        """Waits for the one receipt that it sends when it is ready, and until it has joined. Raises `EngineError`."""
        self.receipt(START_TIMEOUT_S)
        self._join()

    def receipt(self, timeout_s: float) -> Receipt:
        """The next receipt. Raises `EngineError` after ``timeout_s``, and soon when there is no engine any more."""
        deadline = time.monotonic() + timeout_s
        while not self._receipts.poll(_SLICE_MS):
            status = self._process.poll()
            if status is not None:
                raise EngineError(f"the engine has ended with status {status}")
            if time.monotonic() > deadline:
                raise EngineError(f"the engine has not answered for {timeout_s:.0f} s")
        return msgspec.msgpack.decode(self._receipts.recv(), type=Receipt)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self._process.communicate(timeout=_END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            pass
        finally:
            self._process.kill()
            status = self._process.wait()
        if error is None and status != 0:
            raise EngineError(f"the engine has ended with status {status}")
