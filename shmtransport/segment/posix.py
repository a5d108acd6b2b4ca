"""Named segments in /dev/shm. The one owner of posix_ipc.

Names are ``/shmt-<uid>-<ring id>-<n>``: n = 0 is a ring's control segment, 1, 2, … its data segments. They are
created exclusively, mode 0600, never followed through a link (shm_open, which posix_ipc calls, sets
O_NOFOLLOW and O_CLOEXEC). posix_ipc does not tell Python's resource_tracker, which would delete segments of
other processes.
"""

import errno
import os
import re
import stat
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import posix_ipc

from shmtransport import _core
from shmtransport.errors import SegmentError, SegmentNotFoundError
from shmtransport.layout import BACKING_POSIX
from shmtransport.segment import room
from shmtransport.segment.backing import Backing, Serve
from shmtransport.segment.refusals import host_errors

_NAME = re.compile(r"shmt-(?P<uid>0|[1-9][0-9]{0,9})-(?P<ring_id>[0-9a-f]{32})-[0-9]{1,4}", re.ASCII)


class Posix(Backing):
    """The default: any process of the user opens a segment by its name."""

    NAME = "posix"
    CODE = BACKING_POSIX
    readers_only_read = False

    def prefix(self, ring_id: str) -> str:
        return f"shmt-{os.geteuid()}-{ring_id}-"

    @contextmanager
    def created(self, ring_id: str, number: int) -> Iterator[int]:
        name = f"/{self.prefix(ring_id)}{number}"
        with host_errors(f"create {name}"):
            try:
                memory = posix_ipc.SharedMemory(name, posix_ipc.O_CREX, mode=0o600, size=0)
            except posix_ipc.ExistentialError as error:
                raise SegmentError(errno.EEXIST, f"cannot create {name}: somebody has taken that name") from error
            except posix_ipc.Error as error:
                raise SegmentError(f"cannot create {name}: {error}") from error
        try:
            yield memory.fd
        except BaseException:
            with suppress(SegmentError):  # the next sweep tries again
                _unlink(name)
            raise
        finally:
            os.close(memory.fd)

    @contextmanager
    def opened(self, ring_id: str, number: int) -> Iterator[int]:
        name = f"/{self.prefix(ring_id)}{number}"
        with host_errors(f"open {name}"):
            try:
                memory = posix_ipc.SharedMemory(name)
            except posix_ipc.ExistentialError as error:
                raise SegmentNotFoundError(
                    f"no segment {name} on this host: its ring is gone or was never here"
                ) from error
            except (posix_ipc.Error, ValueError) as error:  # the latter for a folder of that name
                raise SegmentError(f"cannot open {name}: {error}") from error
        try:
            yield memory.fd
        finally:
            os.close(memory.fd)

    @contextmanager
    def looked_at(self, uid: int, ring_id: str) -> Iterator[int]:
        path = room.SHM_DIRECTORY / f"shmt-{uid}-{ring_id}-0"
        with host_errors("look"):
            try:
                fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
            except FileNotFoundError as error:
                raise SegmentNotFoundError(f"{path} is not there: its ring is gone or was never here") from error
        try:
            facts = os.fstat(fd)
            if not stat.S_ISREG(facts.st_mode) or facts.st_uid != uid:
                raise SegmentError(
                    f"expected {path} to be a segment of user {uid}, got {stat.filemode(facts.st_mode)} of user "
                    f"{facts.st_uid}: somebody else has taken that name"
                )
            yield fd
        finally:
            os.close(fd)

    def is_known(self, ring_id: str) -> bool:
        """Whether a ring of that id has a name here."""
        return os.path.lexists(room.SHM_DIRECTORY / f"{self.prefix(ring_id)}0")

    def announce(self, ring_id: str, serve: Serve) -> None:
        pass  # the names are there

    def free_nbytes(self) -> tuple[int, str]:
        return room.named_nbytes()

    def rings(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = defaultdict(list)
        for match in _names():
            if int(match["uid"]) == os.geteuid():
                found[match["ring_id"]].append(str(room.SHM_DIRECTORY / match[0]))
        return dict(found)

    def known(self) -> list[tuple[int, str]]:
        return sorted({(int(match["uid"]), match["ring_id"]) for match in _names()})

    def sweep(self) -> list[str]:
        """A ring is an orphan when nobody holds any of its lock bytes. A data name without a control name is one too:
        the control segment is created first and removed last. Anybody can make names in /dev/shm: what is somebody
        else's, or no segment, is left alone."""
        swept = []
        for ring_id, paths in self.rings().items():
            with suppress(SegmentError):  # somebody else's, or not ours to judge
                if self._sweep_ring(ring_id, paths):
                    swept.append(ring_id)
        return swept

    def _sweep_ring(self, ring_id: str, paths: list[str]) -> bool:
        """Removes the names of a ring if it is an orphan; whether it was."""
        try:
            with host_errors(f"sweep ring {ring_id}"), self.opened(ring_id, 0) as fd:
                return os.fstat(fd).st_uid == os.geteuid() and _core.unlink_names(fd, self.prefix(ring_id))
        except SegmentNotFoundError:
            return sum(not _unlink(f"/{os.path.basename(path)}") for path in paths) == 0


def _names() -> Iterator[re.Match[str]]:
    """Those in /dev/shm that are a ring's, whosever it is."""
    try:
        names = os.listdir(room.SHM_DIRECTORY)
    except FileNotFoundError:
        return
    for name in names:
        if match := _NAME.fullmatch(name):
            yield match


def _unlink(name: str) -> bool:
    """Whether the name is gone. False: it is another user's, or a folder."""
    try:
        posix_ipc.unlink_shared_memory(name)
    except posix_ipc.ExistentialError:
        return True  # somebody else was quicker
    except (posix_ipc.Error, OSError):
        return False
    return True
