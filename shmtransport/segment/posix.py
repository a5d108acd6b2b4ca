"""Named segments in /dev/shm. The one owner of posix_ipc.

Names are ``/shmt-<uid>-<ring id>-<n>``: n = 0 is a ring's control segment, 1, 2, … its data segments. They are
created exclusively, mode 0600, never followed through a link (shm_open, which posix_ipc calls, sets
O_NOFOLLOW and O_CLOEXEC). posix_ipc does not tell Python's resource_tracker, which would delete segments of
other processes.
"""

import os
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
            except posix_ipc.Error as error:
                raise SegmentError(f"cannot open {name}: {error}") from error
        try:
            yield memory.fd
        finally:
            os.close(memory.fd)

    def announce(self, ring_id: str, serve: Serve) -> None:
        pass  # the names are there

    def free_nbytes(self) -> tuple[int, str]:
        return room.named_nbytes()

    def rings(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = defaultdict(list)
        start = f"shmt-{os.geteuid()}-"
        try:
            names = os.listdir(room.SHM_DIRECTORY)
        except FileNotFoundError:
            return {}
        for name in names:
            parts = name.removeprefix(start).split("-")
            if name.startswith(start) and len(parts) == 2:
                found[parts[0]].append(str(room.SHM_DIRECTORY / name))
        return dict(found)

    def sweep(self) -> list[str]:
        """A ring is an orphan when nobody holds any of its lock bytes. A data name without a control name is one too:
        the control segment is created first and removed last."""
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
                return _core.unlink_names(fd, self.prefix(ring_id))
        except SegmentNotFoundError:
            for path in paths:
                _unlink(f"/{os.path.basename(path)}")
            return True


def _unlink(name: str) -> None:
    with host_errors(f"remove {name}"):
        try:
            posix_ipc.unlink_shared_memory(name)
        except posix_ipc.ExistentialError:
            pass  # somebody else was quicker
        except posix_ipc.Error as error:
            raise SegmentError(f"cannot remove {name}: {error}") from error
