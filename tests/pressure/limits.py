"""What a process may not exceed, and mounts of /dev/shm that refuse: real pressure, for `every` and for tests.

All of it is for forked children, which end with it.
"""

import contextlib
import ctypes
import os
import resource
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.pressure.failing import Fault
from tests.support import SHARED_MEMORY

_CLONE_NEWNS = 0x00020000
_LINUX_CAPABILITY_VERSION_3 = 0x20080522
PAGE_NBYTES = 4096


@contextlib.contextmanager
def descriptors_left(count: int) -> Iterator[Fault]:
    """The process can open ``count`` files more; 12 are enough for any operation."""
    open_now = [int(fd) for fd in os.listdir("/proc/self/fd")]
    with _limited(resource.RLIMIT_NOFILE, max(open_now) + 64):
        taken = []
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.dup(0))
        for fd in taken[:count]:
            os.close(fd)
        try:
            yield Fault(hits=int(count < 12))
        finally:
            for fd in taken[count:]:
                os.close(fd)


@contextlib.contextmanager
def address_space_left(steps: int) -> Iterator[Fault]:
    """The process can map ``steps`` times 256 KiB more; 4 MiB are enough for any operation but a thread's stack."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    with _limited(resource.RLIMIT_AS, pages * PAGE_NBYTES + (steps << 18)):
        yield Fault(hits=int(steps < 16))


@contextlib.contextmanager
def _limited(which: int, value: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(which)
    resource.setrlimit(which, (value, hard))
    try:
        yield
    finally:
        resource.setrlimit(which, (soft, hard))


@contextlib.contextmanager
def files_of_at_most(nbytes: int) -> Iterator[None]:
    """No file may be larger, and the signal for one that would be kills, as it does where Python is not the program."""
    before = signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    try:
        with _limited(resource.RLIMIT_FSIZE, nbytes):
            yield
    finally:
        signal.signal(signal.SIGXFSZ, before)


@contextlib.contextmanager
def unprivileged() -> Iterator[None]:
    """Even root minds permissions: no capability of the process is effective."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(_LINUX_CAPABILITY_VERSION_3, 0)
    had = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; twice
    libc.capget(header, had)
    fewer = (ctypes.c_uint32 * 6)(0, had[1], had[2], 0, had[4], had[5])
    if libc.capset(header, fewer) != 0:
        raise OSError(ctypes.get_errno(), "capset")
    try:
        yield
    finally:
        libc.capset(header, had)


@contextlib.contextmanager
def mounted(options: str, on: Path = SHARED_MEMORY) -> Iterator[None]:
    """A new tmpfs over ``on``, for this process and its children."""
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNS) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", on], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", on], check=True)
