"""The Python face of failing.c: builds it, and arms it in a process that was started with it.

failing = loaded()                                        # only where LD_PRELOAD names the library
with failing.at("posix_fallocate", 2, errno.ENOSPC) as fault:
    Ring.create("64MiB")                                  # its second posix_fallocate finds no room
fault.hits                                                # whether there was a second one
"""

import contextlib
import ctypes
import functools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import posix_ipc

from shmtransport import _core
from tests.support import compile_c

SOURCE = Path(__file__).with_name("failing.c")
PRELOAD = "LD_PRELOAD"
_ACTION = ctypes.CFUNCTYPE(None)


def build(folder: Path) -> Path:
    """The shared library, compiled into ``folder``."""
    library = folder / "failing.so"
    options = "-std=gnu11 -O2 -g -Wall -Wextra -Werror -shared -fPIC".split()
    compile_c(*options, "-o", library, SOURCE, "-ldl")
    return library


@dataclass
class Fault:
    """What came of an armed failure."""

    hits: int = 0
    """Calls that it hit, known when it is disarmed."""


class Failing:
    """The preloaded library; `loaded` makes one a process. One fault at a time, for all threads."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(os.environ[PRELOAD])
        self._library.failing_disarm.restype = self._library.failing_held.restype = ctypes.c_long
        self._library.failing_watch.restype = self._library.failing_arm.restype = ctypes.c_bool
        for path in (_core.__file__, posix_ipc.__file__, None):
            assert self._library.failing_watch(path and os.fsencode(path)), f"not loaded: {path or 'Python'}"

    @contextlib.contextmanager
    def at(
        self,
        function: str,
        n: int,
        error: int = 0,
        *,
        from_then_on: bool = False,
        meanwhile: Callable[[], object] | None = None,
    ) -> Iterator[Fault]:
        """The ``n``-th call of ``function`` in the ``with`` block, counted from 1, fails; or all from it on.

        ``meanwhile`` is what happens just before it; without an ``error`` the call itself is then as always.
        """
        fault = Fault()
        action = _ACTION() if meanwhile is None else _ACTION(lambda: meanwhile() and None)
        if not self._library.failing_arm(function.encode(), ctypes.c_long(n), error, from_then_on, action):
            raise AssertionError(f"failing.c has no {function}")
        try:
            yield fault
        finally:
            fault.hits = self._library.failing_disarm()

    def held(self) -> int:
        """Heap blocks that the C core has taken and not given back."""
        return int(self._library.failing_held())


@functools.cache
def loaded() -> Failing:
    """This process's."""
    return Failing()
