"""Attacks in a forked child, which may crash or hang: then it is known which attack did it.

    outcome = trial(attacks, deadline_s=20)

``attacks(mark)`` runs in the child. It calls ``mark(number)`` before each attack and answers how often which error was
raised. A child that dies, raises what no attack may cause, or marks nothing new for ``deadline_s`` is a `BreachError`
with the number; the child is killed by its own pid and what it left in /dev/shm is swept.
"""

import mmap
import os
import pickle
import select
import signal
import struct
import time
import traceback
from collections import Counter
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import torch

from shmtransport import ShmTransportError, sweep

Mark = Callable[[int], None]
Outcome = Counter[str]
"""How often each answer came: ``"fine"``, or the name of an error's class."""

DEADLINE_S: Final = 30.0
_LOOK_S: Final = 0.5
_NONE: Final = (1 << 64) - 1


class BreachError(AssertionError):
    """An attack got through: ``number`` is the last one marked."""

    def __init__(self, number: int | None, what: str) -> None:
        super().__init__(f"attack {number}: {what}")
        self.number = number
        self.what = what


class Breach(NamedTuple):
    """The same, kept for a report."""

    number: int
    what: str


class attempt:  # noqa: N801 - reads as a statement; a generator would cost more than most attacks
    """Counts a step as fine or by its typed error; any other error goes on and ends the trial."""

    __slots__ = ("_allowed", "_outcome")

    def __init__(self, outcome: Outcome, allowed: type[Exception] = ShmTransportError) -> None:
        self._outcome = outcome
        self._allowed = allowed

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        if error is None:
            self._outcome["fine"] += 1
        elif isinstance(error, (ShmTransportError, self._allowed)):
            self._outcome[type(error).__name__] += 1
        else:
            return False
        return True


def trial(attacks: Callable[[Mark], Outcome], *, deadline_s: float = DEADLINE_S) -> Outcome:
    """Runs ``attacks`` in a forked child; `BreachError` if one gets through."""
    board = mmap.mmap(-1, mmap.PAGESIZE)
    board[:8] = struct.pack("<Q", _NONE)
    readable, writable = os.pipe()
    pid = os.fork()
    if pid == 0:
        _serve(attacks, board, writable)
    os.close(writable)
    try:
        status, answer = _await(pid, readable, board, deadline_s)
    finally:
        os.close(readable)
    number = _marked(board)
    board.close()
    if status is None:
        sweep()
        raise BreachError(number, f"hung for {deadline_s} s")
    if os.WIFSIGNALED(status):
        sweep()
        raise BreachError(number, f"died of {signal.Signals(os.WTERMSIG(status)).name}")
    fine, told = pickle.loads(answer)
    if not fine:
        sweep()
        raise BreachError(number, told)
    outcome: Outcome = told
    return outcome


def _serve(attacks: Callable[[Mark], Outcome], board: mmap.mmap, writable: int) -> None:
    """The child: never returns."""
    try:
        torch.set_num_threads(1)  # a fork inherits no OpenMP threads, only the belief in them
        try:
            told: tuple[bool, Any] = True, attacks(lambda number: struct.pack_into("<Q", board, 0, number))
        except BaseException:  # noqa: BLE001 - told to the parent
            told = False, traceback.format_exc()
        with os.fdopen(writable, "wb") as pipe:
            pipe.write(pickle.dumps(told))
    finally:
        os._exit(0)


def _await(pid: int, readable: int, board: mmap.mmap, deadline_s: float) -> tuple[int | None, bytes]:
    """Exit status and answer; no status: it hung, and was killed."""
    answer = b""
    seen, since = _marked(board), time.monotonic()
    while True:
        if select.select([readable], [], [], _LOOK_S)[0]:
            part = os.read(readable, 1 << 16)
            if not part:
                return os.waitpid(pid, 0)[1], answer
            answer += part
        if (now := _marked(board)) != seen:
            seen, since = now, time.monotonic()
        elif time.monotonic() - since > deadline_s:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return None, answer


def _marked(board: mmap.mmap) -> int | None:
    (number,) = struct.unpack_from("<Q", board, 0)
    return None if number == _NONE else number
