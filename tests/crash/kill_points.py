"""The core with kill points (csrc/kill_points.h) and how a process is told to die at one.

`install` puts that core into a process before it imports shmtransport; the Python around it is the same. A
process under ``armed`` writes every point that it passes into a file, and dies at the n-th.
"""

import contextlib
import ctypes
import importlib.util
import os
import pkgutil
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from tests.support import ROOT

CORE = ROOT / "build" / "kill_points" / "shmtransport" / "_core.abi3.so"
NAME = "shmtransport._core"

# Steps between two writes of the core that are Python's: after each call of these, a point of this name.
PYTHON_POINTS = {
    "name.opened": ("posix_ipc", "SharedMemory"),
    "name.removed": ("posix_ipc", "unlink_shared_memory"),
    "segment.reserved": ("os", "posix_fallocate"),
    "memfd.created": ("os", "memfd_create"),
    "socket.bound": ("socket:socket", "bind"),
    "socket.listening": ("socket:socket", "listen"),
    "socket.renamed": ("os", "rename"),
    "socket.removed": ("os", "unlink"),
}


def points_in_sources() -> set[str]:
    """Every name in a SHMT_KILL_POINT of csrc/."""
    text = "".join(path.read_text() for path in (ROOT / "csrc").rglob("*.c"))
    return set(re.findall(r'SHMT_KILL_POINT\("([\w.]+)"\)', text))


class _Finder(MetaPathFinder):
    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,  # noqa: ARG002
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        return importlib.util.spec_from_file_location(fullname, CORE) if fullname == NAME else None


def install() -> None:
    """From now on shmtransport is imported with the core that has kill points."""
    if NAME in sys.modules:
        raise AssertionError("shmtransport was imported before")
    sys.meta_path.insert(0, _Finder())
    for point, (module, function) in PYTHON_POINTS.items():
        owner = pkgutil.resolve_name(module)
        setattr(owner, function, _with_point(point, getattr(owner, function)))


def _with_point(point: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arguments: Any, **named: Any) -> Any:
        answer = function(*arguments, **named)
        _core().shmt_kill_point(point.encode())
        return answer

    return call


def _core() -> ctypes.CDLL:
    return ctypes.CDLL(str(CORE))


@contextlib.contextmanager
def armed(record: Path | str, fatal: int) -> Iterator[None]:
    """Within the block this process dies at its ``fatal``-th passage of a point; 0: at none.

    It stays armed, until it has ended, if the block is not left.
    """
    fd = os.open(record, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
    arm = _core().shmt_kill_points_arm
    arm(fd, ctypes.c_uint64(fatal))
    yield
    arm(-1, ctypes.c_uint64(0))
    os.close(fd)


class Record(NamedTuple):
    """What a process passed while it was armed."""

    passed: list[str]
    died_at: str | None

    @classmethod
    def read(cls, path: Path) -> "Record":
        lines = path.read_text().split()
        fatal = [line[1:] for line in lines if line.startswith("!")]
        return cls([line.removeprefix("!") for line in lines], fatal[0] if fatal else None)
