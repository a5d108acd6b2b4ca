"""Named shared memory: creating, opening, listing and sweeping. The one owner of posix_ipc.

Names are ``/shmt-<uid>-<ring id>-<n>``: n = 0 is a ring's control segment, 1, 2, … its data segments. They are
created exclusively, mode 0600, never followed through a link (shm_open, which posix_ipc calls, sets
O_NOFOLLOW and O_CLOEXEC). posix_ipc does not tell Python's resource_tracker, which would delete segments of
other processes.
"""

import os
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import posix_ipc

from shmtransport import _core
from shmtransport.errors import OutOfSharedMemoryError, SegmentError, SegmentNotFoundError

SHM_DIRECTORY = Path("/dev/shm")
_CGROUP = Path("/sys/fs/cgroup")


def prefix(ring_id: str, uid: int | None = None) -> str:
    """What every name of a ring begins with, without the leading slash."""
    return f"shmt-{os.geteuid() if uid is None else uid}-{ring_id}-"


@contextmanager
def created(ring_id: str, number: int) -> Iterator[int]:
    """A descriptor of a new, empty segment; its name is removed again if the block raises."""
    name = f"/{prefix(ring_id)}{number}"
    try:
        memory = posix_ipc.SharedMemory(name, posix_ipc.O_CREX, mode=0o600, size=0)
    except posix_ipc.Error as error:
        raise SegmentError(f"cannot create {name}: {error}") from error
    try:
        yield memory.fd
    except BaseException:
        _unlink(name)
        raise
    finally:
        os.close(memory.fd)


def _unlink(name: str) -> None:
    with suppress(posix_ipc.ExistentialError):  # somebody else was quicker
        posix_ipc.unlink_shared_memory(name)


@contextmanager
def opened(ring_id: str, number: int) -> Iterator[int]:
    """A descriptor of an existing segment."""
    name = f"/{prefix(ring_id)}{number}"
    try:
        memory = posix_ipc.SharedMemory(name)
    except posix_ipc.ExistentialError as error:
        raise SegmentNotFoundError(f"no segment {name} on this host: its ring is gone or was never here") from error
    except posix_ipc.Error as error:
        raise SegmentError(f"cannot open {name}: {error}") from error
    except OSError as error:
        raise SegmentError(error.errno, f"cannot open {name}: {error.strerror}") from error
    try:
        yield memory.fd
    finally:
        os.close(memory.fd)


def reserve(fd: int, nbytes: int) -> None:
    """Gives an empty segment its size and every one of its pages, or raises before any byte is written.

    ``ftruncate`` alone would promise pages that are not there: the first write is then a SIGBUS.
    """
    check_free(nbytes)
    try:
        os.posix_fallocate(fd, 0, nbytes)
    except OSError as error:
        raise out_of_memory(nbytes, error) from error


def out_of_memory(asked_nbytes: int, error: OSError) -> OutOfSharedMemoryError:
    """What is raised if the pages were gone between the look and their reservation."""
    return OutOfSharedMemoryError(asked_nbytes, free_nbytes()[0], f"posix_fallocate: {error.strerror}")


def check_free(nbytes: int) -> None:
    """Raises `OutOfSharedMemoryError` if ``nbytes`` more would not fit into /dev/shm or the cgroup."""
    free, limit = free_nbytes()
    if nbytes > free:
        raise OutOfSharedMemoryError(nbytes, free, limit)


def free_nbytes() -> tuple[int, str]:
    """Bytes that shared memory may still take, and what sets that limit.

    Going over a cgroup's limit is not an error but a kill, so it is looked at first.
    """
    facts = os.statvfs(SHM_DIRECTORY)
    free, limit = facts.f_bavail * facts.f_frsize, str(SHM_DIRECTORY)
    cgroup = _cgroup_free_nbytes()
    if cgroup is not None and cgroup < free:
        return cgroup, "the cgroup's memory limit"
    return free, limit


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


def rings() -> dict[str, list[str]]:
    """Names in /dev/shm of this user's rings, by ring id."""
    found: dict[str, list[str]] = defaultdict(list)
    start = f"shmt-{os.geteuid()}-"
    for name in os.listdir(SHM_DIRECTORY):
        parts = name.removeprefix(start).split("-")
        if name.startswith(start) and len(parts) == 2:
            found[parts[0]].append(name)
    return dict(found)


def sweep() -> list[str]:
    """Removes what dead processes left in /dev/shm; returns the ids of the rings that went.

    A ring is an orphan when nobody holds any of its lock bytes. A data name without a control name is one too:
    the control segment is created first and removed last.
    """
    swept = []
    for ring_id, names in rings().items():
        try:
            with opened(ring_id, 0) as fd:
                gone = _core.unlink_names(fd, prefix(ring_id))
        except SegmentNotFoundError:
            for name in names:
                _unlink(f"/{name}")
            gone = True
        except SegmentError:
            continue  # somebody else's, or not ours to judge
        if gone:
            swept.append(ring_id)
    return swept
