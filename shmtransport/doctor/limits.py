"""What this process may not exceed (getrlimit(2)): a service inherits its limits as this process did."""

import errno
import os
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from shmtransport.doctor.findings import Finding
from shmtransport.doctor.remedies import MORE_FILES
from shmtransport.doctor.situation import Situation, first_nbytes
from shmtransport.formatting import size

_OPERATION: Final = 12
"""Files that any operation of a ring opens meanwhile, at most."""
_USUAL: Final = 1024
"""What Linux gives a process that nobody has thought of."""
_NO_LIMIT: Final = resource.RLIM_INFINITY
_STATM = Path("/proc/self/statm")


def open_files(situation: Situation) -> Iterator[Finding]:
    """The writer of an anonymous ring keeps a descriptor of each segment."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    ring = situation.input_ring()
    segments = -(-ring.capacity_nbytes // first_nbytes(ring)[1]) + 1 if ring.backing == "memfd" else 0
    needed, open_now = _OPERATION + segments, _open_files(soft)
    if soft != _NO_LIMIT and soft < open_now + needed:
        text = f"expected {needed} files for a ring beside the {open_now} that are open, RLIMIT_NOFILE is {soft}"
        yield Finding("open files", "failure", text, MORE_FILES)
    elif soft != _NO_LIMIT and soft < _USUAL:
        text = f"RLIMIT_NOFILE is {soft}, enough for a ring; a server has a socket for each client besides"
        yield Finding("open files", "warning", text, MORE_FILES)
    else:
        yield Finding("open files", "ok", f"RLIMIT_NOFILE is {_count(soft)} (at most {_count(hard)})")


def _open_files(limit: int) -> int:
    """How many this process has. To look takes one more."""
    try:
        return len(os.listdir("/proc/self/fd")) - 1
    except OSError as error:
        if error.errno != errno.EMFILE:
            raise
        return limit


def file_size(situation: Situation) -> Iterator[Finding]:
    """A segment is a file to the kernel; one that is too large is refused, or kills by SIGXFSZ."""
    soft, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    largest_nbytes = max(first_nbytes(situation.input_ring()))
    if soft == _NO_LIMIT or soft >= largest_nbytes:
        yield Finding("file size", "ok", f"RLIMIT_FSIZE is {_nbytes(soft)}")
    else:
        text = f"expected segments of {size(largest_nbytes)}, RLIMIT_FSIZE is {size(soft)}: no ring can be made"
        yield Finding("file size", "failure", text, "ulimit -f unlimited (systemd LimitFSIZE=infinity)")


def address_space(situation: Situation) -> Iterator[Finding]:
    """A ring is mapped as a whole, as it grows."""
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft == _NO_LIMIT:
        yield Finding("address space", "ok", "RLIMIT_AS is unlimited")
        return
    ring = situation.input_ring()
    left_nbytes = soft - int(_STATM.read_text().split()[0]) * resource.getpagesize()
    remedy = "ulimit -v unlimited (systemd LimitAS=infinity)"
    if left_nbytes < sum(first_nbytes(ring)):
        text = f"expected {size(sum(first_nbytes(ring)))} for a ring, RLIMIT_AS leaves {_left(left_nbytes)}"
        yield Finding("address space", "failure", text, remedy)
    elif left_nbytes < ring.capacity_nbytes:
        text = f"expected {size(ring.capacity_nbytes)} for a whole ring, RLIMIT_AS leaves {_left(left_nbytes)}"
        yield Finding("address space", "warning", text, remedy)
    else:
        yield Finding("address space", "ok", f"RLIMIT_AS leaves {_left(left_nbytes)}")


def locked_memory(_: Situation) -> Iterator[Finding]:
    """Often raised for the sake of a GPU, for nothing: on an H100 with driver 580 CUDA registered 256 MiB of shared
    memory for an ordinary user whose limit was 0."""
    soft, _hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    yield Finding("locked memory", "ok", f"RLIMIT_MEMLOCK is {_nbytes(soft)}, and bounds nothing here")


def _left(nbytes: int) -> str:
    return size(max(nbytes, 0))


def _count(limit: int) -> str:
    return "unlimited" if limit == _NO_LIMIT else str(limit)


def _nbytes(limit: int) -> str:
    return "unlimited" if limit == _NO_LIMIT else size(limit)
