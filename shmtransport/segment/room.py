"""How much shared memory may still be taken: looked at before it is, for going over a cgroup's limit is a kill."""

import os
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

from shmtransport.errors import OutOfSharedMemoryError

SHM_DIRECTORY = Path("/dev/shm")
_CGROUP = Path("/sys/fs/cgroup")
_MEMINFO = Path("/proc/meminfo")


def named_nbytes() -> tuple[int, str]:
    """Bytes that segments in /dev/shm may still take, and what sets that limit."""
    return _within_cgroup(filesystem_nbytes(), str(SHM_DIRECTORY))


def filesystem_nbytes() -> int:
    """Bytes free in /dev/shm, whatever the cgroup says; 0 where there is none or it cannot be written."""
    try:
        facts = os.statvfs(SHM_DIRECTORY)
    except OSError:
        return 0
    return facts.f_bavail * facts.f_frsize if os.access(SHM_DIRECTORY, os.W_OK | os.X_OK) else 0


def anonymous_nbytes() -> tuple[int, str]:
    """Bytes that segments without a name may still take, and what sets that limit."""
    fields = dict(line.split(":") for line in _MEMINFO.read_text().splitlines())
    return _within_cgroup(int(fields["MemAvailable"].removesuffix("kB")) * 1024, "the host's available memory")


def file_nbytes() -> tuple[int, str]:
    """Most bytes that a file of this process may have, and what sets that limit.

    To go over it raises SIGXFSZ. Python ignores that, but it kills where somebody has set it back, or where Python is
    embedded without its signal handlers.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    return (sys.maxsize if soft == resource.RLIM_INFINITY else soft), "RLIMIT_FSIZE, ulimit -f"


def check(nbytes: int, free: tuple[int, str]) -> None:
    """Raises `OutOfSharedMemoryError` if ``nbytes`` more would not fit."""
    free_nbytes, limit = free
    if nbytes > free_nbytes:
        raise OutOfSharedMemoryError(nbytes, free_nbytes, limit)


def _within_cgroup(free_nbytes: int, limit: str) -> tuple[int, str]:
    cgroup = _cgroup_free_nbytes()
    if cgroup is not None and cgroup < free_nbytes:
        return cgroup, "the cgroup's memory limit"
    return free_nbytes, limit


def _cgroup_free_nbytes() -> int | None:
    """Least of (limit - current use) over this process's cgroup and its parents; None without a limit."""
    free: int | None = None
    for limit_name, use_name, folder in _cgroup_folders():
        while True:
            try:
                text = (folder / limit_name).read_text().strip()
                use = int((folder / use_name).read_text())
            except (OSError, ValueError):
                text, use = "max", 0
            if text != "max" and int(text) < 1 << 60:
                left = max(int(text) - use, 0)
                free = left if free is None else min(free, left)
            if folder == _CGROUP or _CGROUP not in folder.parents:
                break
            folder = folder.parent
    return free


def _cgroup_folders() -> Iterator[tuple[str, str, Path]]:
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            yield "memory.max", "memory.current", _CGROUP / path.lstrip("/")
        elif "memory" in controllers.split(","):
            yield "memory.limit_in_bytes", "memory.usage_in_bytes", _CGROUP / "memory" / path.lstrip("/")
