"""Anonymous segments: memfds, sealed by the core, handed over a unix socket by the writer's process.

They count against memory and the cgroup, but not against the size of /dev/shm, and the kernel frees them with the
last process that maps them, however it ends. In place of names a ring has one socket,

    <directory>/shmt-<uid>/<ring id>

in a directory of mode 0700 (csrc/serving.h says what is spoken there, and has the other end). Whoever asks checks the
directory's owner, the socket's (SO_PEERCRED) and, in the core, the seals. A socket that refuses connections is an
orphan: it gets its name only once it listens.
"""

import errno
import os
import re
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Final

from shmtransport.errors import ConfigError, SegmentError, SegmentNotFoundError
from shmtransport.layout import BACKING_MEMFD
from shmtransport.segment import room
from shmtransport.segment.backing import Backing, Serve

VARIABLE: Final = "SHMTRANSPORT_SOCKET_DIRECTORY"
DEADLINE_S: Final = 5.0
"""For a writer to hand over a descriptor to who joins; a stopped one does not."""
LOOK_DEADLINE_S: Final = 1.0
"""To who only looks, at other rings as well."""

_BACKLOG: Final = 128
_MFD_NOEXEC_SEAL: Final = 8  # linux/memfd.h; Linux 6.3, and demanded where vm.memfd_noexec is 2
_LONGEST_PATH: Final = 107  # sun_path, unix(7)
_UNFINISHED: Final = ".new"
_NAME: Final = re.compile(f"([0-9a-f]{{32}})({re.escape(_UNFINISHED)})?")


class Memfd(Backing):
    """For where /dev/shm is too small, and for nothing being left whatever happens. Readers cannot map it writable."""

    NAME = "memfd"
    CODE = BACKING_MEMFD
    readers_only_read = True

    def prefix(self, ring_id: str) -> str:  # noqa: ARG002 - it has none
        return ""

    @contextmanager
    def created(self, ring_id: str, number: int) -> Iterator[int]:
        fd = _anonymous(f"shmt-{os.geteuid()}-{ring_id}-{number}")
        try:
            os.fchmod(fd, 0o600)
            yield fd
        finally:
            os.close(fd)

    def opened(self, ring_id: str, number: int) -> AbstractContextManager[int]:
        return _handed_over(ring_id, number, DEADLINE_S)

    def looked_at(self, uid: int, ring_id: str) -> AbstractContextManager[int]:
        """The writer hands over the very descriptor that readers get; there is none of another user's."""
        if uid != os.geteuid():
            raise SegmentError(errno.EACCES, f"the ring of user {uid} is theirs alone")
        return _handed_over(ring_id, 0, LOOK_DEADLINE_S)

    def announce(self, ring_id: str, serve: Serve) -> None:
        path = _made_directory() / ring_id
        while True:
            unfinished = path.with_suffix(_UNFINISHED)
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
                listener.setblocking(False)
                try:
                    listener.bind(str(unfinished))
                    listener.listen(_BACKLOG)
                    unfinished.rename(path)
                except FileNotFoundError:  # swept before it listened
                    _made_directory()
                    continue
                except OSError as error:
                    raise SegmentError(error.errno, f"cannot listen on {path}: {error.strerror}") from error
                try:
                    serve(listener.fileno(), str(path))
                except BaseException:
                    path.unlink(missing_ok=True)
                    raise
                return

    def free_nbytes(self) -> tuple[int, str]:
        return room.anonymous_nbytes()

    def rings(self) -> dict[str, list[str]]:
        """Of a directory that is another user's, or open to others, nothing is believed."""
        directory = _directory()
        try:
            _check_directory(directory)
            names = os.listdir(directory)
        except OSError:
            return {}
        found = [(match[1], str(directory / name)) for name in names if (match := _NAME.fullmatch(name))]
        return {ring_id: [path] for ring_id, path in found}

    def known(self) -> list[tuple[int, str]]:
        return [(os.geteuid(), ring_id) for ring_id in sorted(self.rings())]

    def sweep(self) -> list[str]:
        """A socket that nobody listens on is an orphan. Its ring's memory went with the last process that mapped it."""
        swept = []
        for ring_id, (path,) in self.rings().items():
            if _is_orphan(path):
                with suppress(OSError):
                    os.unlink(path)
                    swept.append(ring_id)
        return swept

    def is_known(self, ring_id: str) -> bool:
        """Whether a ring of that id has, or had, its socket here."""
        return os.path.lexists(_directory() / ring_id)


def _anonymous(name: str) -> int:
    """A new memfd that can be sealed."""
    sealable = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        try:
            return os.memfd_create(name, sealable | _MFD_NOEXEC_SEAL)
        except OSError:  # EINVAL: an older kernel. Anything else comes again.
            return os.memfd_create(name, sealable)
    except OSError as error:
        raise SegmentError(error.errno, f"cannot create {name}: {error.strerror}") from error


def _directory() -> Path:
    base = Path(os.environ.get(VARIABLE, "/tmp"))
    directory = base / f"shmt-{os.geteuid()}"
    longest = _LONGEST_PATH - len("/" + 32 * "f" + _UNFINISHED)
    if not base.is_absolute() or len(os.fsencode(directory)) > longest:
        raise ConfigError(VARIABLE, str(base), f"an absolute path that makes {directory} at most {longest} bytes long")
    return directory


def _made_directory() -> Path:
    directory = _directory()
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise SegmentError(error.errno, f"cannot make {directory}: {error.strerror}; set {VARIABLE}") from error
    _check_directory(directory)
    return directory


def _check_directory(directory: Path) -> None:
    """Whoever could write into it could answer in a writer's place."""
    try:
        facts = directory.lstat()
    except OSError:
        return  # then there is no socket either
    if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.geteuid() or facts.st_mode & 0o077:
        raise SegmentError(
            f"expected {directory} to be a directory of user {os.geteuid()} with mode 700, got "
            f"{stat.filemode(facts.st_mode)} of user {facts.st_uid}: remove it, or set {VARIABLE}"
        )


@contextmanager
def _handed_over(ring_id: str, number: int, timeout_s: float) -> Iterator[int]:
    path = _directory() / ring_id
    _check_directory(path.parent)
    fd = _asked(path, number, timeout_s)
    try:
        yield fd
    finally:
        os.close(fd)


def _asked(path: Path, number: int, timeout_s: float) -> int:
    """The descriptor that the writer hands over. A writer that is stopped, or busy for too long, is an error."""
    deadline = time.monotonic() + timeout_s
    while True:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.settimeout(max(deadline - time.monotonic(), 0.001))
            try:
                client.connect(str(path))
                _check_server(client, path)
                client.sendall(number.to_bytes(4, "little"))
                answer, fds, _, _ = socket.recv_fds(client, 1, 8, socket.MSG_CMSG_CLOEXEC)
            except SegmentError:
                raise
            except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError) as error:
                raise SegmentNotFoundError(
                    f"nobody serves {path} on this host: its ring is gone or was never here"
                ) from error
            except (TimeoutError, BlockingIOError) as error:
                raise SegmentError(
                    errno.ETIMEDOUT,
                    f"the writer of ring {path.name} handed nothing over within {timeout_s} s: is it stopped?",
                ) from error
            except (ConnectionError, InterruptedError):
                answer, fds = b"", []
            except OSError as error:
                raise SegmentError(error.errno, f"cannot ask {path}: {error.strerror}") from error
        if answer == b"\1" and len(fds) == 1:
            return fds[0]
        for fd in fds:
            os.close(fd)
        if answer:
            raise SegmentNotFoundError(f"the writer of ring {path.name} knows no segment {number}")
        if time.monotonic() > deadline:  # it cuts off who is slow to ask; so ask again
            raise SegmentError(errno.ETIMEDOUT, f"the writer of ring {path.name} answered nothing within {timeout_s} s")


def _check_server(client: socket.socket, path: Path) -> None:
    credentials = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    uid = int.from_bytes(credentials[4:8], "little")
    if uid != os.geteuid():
        raise SegmentError(f"expected {path} to be served by user {os.geteuid()}, got user {uid}")


def _is_orphan(path: str) -> bool:
    """Only a socket can be: what is none refuses connections too."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return False
    except OSError:
        return False  # removed meanwhile
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.setblocking(False)
        try:
            client.connect(path)
        except ConnectionRefusedError:
            return True
        except OSError:
            pass  # removed meanwhile, a full backlog, or not a socket: not ours to judge
        return False
