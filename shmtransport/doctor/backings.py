"""Both backings, tried for real: a segment is made on each, and removed again.

What is tried here has a name for less than a millisecond; a process that is killed just then leaves 4 KiB, which the
next sweep removes. No ring is made: that would sweep first, and an examination changes nothing.
"""

import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NoReturn

from shmtransport import segment
from shmtransport.config import SEGMENT_UNIT_NBYTES
from shmtransport.doctor.findings import Finding, Level
from shmtransport.doctor.mounts import mount_of
from shmtransport.doctor.remedies import MORE_FILES, dev_shm_of, usable_dev_shm
from shmtransport.doctor.situation import Situation
from shmtransport.errors import ConfigError, OutOfSharedMemoryError, SegmentError
from shmtransport.formatting import size
from shmtransport.segment.backing import Backing
from shmtransport.segment.memfd import VARIABLE as SOCKETS
from shmtransport.segment.room import SHM_DIRECTORY

_IN_MEMORY: Final = {"tmpfs", "ramfs", "devtmpfs"}


class _Done(Exception):  # noqa: N818 - it is none
    """Ends a trial: what was tried goes as what could not be completed does."""


def _try_segment(backing: Backing) -> None:
    try:
        with backing.created(secrets.token_hex(16), 0) as fd:
            backing.reserve(fd, SEGMENT_UNIT_NBYTES)
            raise _Done
    except _Done:
        pass


def _try_socket(backing: Backing) -> None:
    def end(listener: int, path: str) -> NoReturn:
        raise _Done(listener, path)

    try:
        backing.announce(secrets.token_hex(16), end)
    except _Done:
        pass


def dev_shm(situation: Situation) -> Iterator[Finding]:
    """Whether there can be segments in /dev/shm. If not, rings are anonymous, and vLLM's outputs come its own way."""
    sizes = "there is none"
    try:
        facts = os.statvfs(SHM_DIRECTORY)
        sizes = f"{size(facts.f_blocks * facts.f_frsize)}, {size(facts.f_bavail * facts.f_frsize)} free"
        _try_segment(segment.BY_NAME["posix"])
    except (SegmentError, OSError) as error:
        level: Level = "failure" if _is_needed() else "warning"
        text = f"{sizes}; expected to make a segment, got: {_reason(error)}"
        yield Finding("/dev/shm", level, text, usable_dev_shm(situation.roomy_nbytes()))
        return
    text = f"{sizes}; a segment could be made"
    if (kind := mount_of(SHM_DIRECTORY).kind) in _IN_MEMORY:
        yield Finding("/dev/shm", "ok", text)
    else:
        text = f"{text}; expected a tmpfs, it is {kind}: what is in it may go to a disk"
        yield Finding("/dev/shm", "warning", text, dev_shm_of(situation.roomy_nbytes()))


def _is_needed() -> bool:
    """Whether creating a ring fails where nothing can be made there: each looks for orphans there first, and one that
    fits is put there."""
    try:
        segment.BY_NAME["posix"].rings()
    except OSError:
        return True
    return segment.choose("auto", SEGMENT_UNIT_NBYTES).NAME == "posix"


def memfd(situation: Situation) -> Iterator[Finding]:
    """Whether there can be anonymous segments, and sockets to hand them over: what "auto" falls back to."""
    backing = segment.BY_NAME["memfd"]
    directory = Path(situation.environment.get(SOCKETS, "/tmp"), f"shmt-{os.geteuid()}")
    try:
        _try_segment(backing)
    except (SegmentError, OSError) as error:
        remedy = MORE_FILES if error.errno == errno.EMFILE else "allow memfd_create: docker run --security-opt seccomp="
        yield Finding("memfd", "failure", f"expected to make an anonymous segment, got: {_reason(error)}", remedy)
        return
    try:
        _try_socket(backing)
    except (SegmentError, ConfigError, OSError) as error:
        text = f"expected to make a socket in {directory}, got: {error}"
        remedy = f"set {SOCKETS} to a short absolute path that is there, alike in all processes"
        yield Finding("memfd", "failure", text, f"rm -r {directory}; or {remedy}" if directory.exists() else remedy)
        return
    free_nbytes, limit = backing.free_nbytes()
    yield Finding("memfd", "ok", f"{size(free_nbytes)} free ({limit}); a socket could be made in {directory}")


def _reason(error: OSError) -> str:
    """In the kernel's words where it has some: what was tried has no name that is of use."""
    if isinstance(error, OutOfSharedMemoryError):
        return f"no room ({error.limit})"
    return os.strerror(error.errno) if error.errno else str(error)
