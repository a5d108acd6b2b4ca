"""Attack: what stands in the place of an anonymous ring's socket directory and of its socket, and who else connects.

There are two attackers. *Another user* may make names in /tmp, before the victim does: its directory, a link, a file.
*This user* may serve a socket in the directory and answer in a writer's place, or not answer, or hand over anything
that is a descriptor; and it may connect to a genuine socket and say nothing, or anything.

The victim creates, joins and sweeps. It must get a typed error within its deadline, or its ring; it deletes nothing
that is no socket of a dead ring, keeps no descriptor, and the other backing works as if nothing stood there.
"""

import contextlib
import fcntl
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


def memfd(nbytes: int, seals: int = 0, content: bytes = b"") -> int:
    """An anonymous segment of any size, sealed or not."""
    fd = os.memfd_create("hostile", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.fchmod(fd, 0o600)
    os.posix_fallocate(fd, 0, nbytes) if nbytes else None
    os.pwrite(fd, content, 0)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals) if seals else None
    return fd


HANDED_OVER: Final[dict[str, Callable[[], int]]] = {
    "an unsealed memfd": lambda: memfd(1 << 20),
    "a memfd that may still shrink": lambda: memfd(1 << 20, fcntl.F_SEAL_GROW),
    "a sealed memfd without a byte": lambda: memfd(0, SEALS),
    "a sealed memfd of 100 bytes": lambda: memfd(100, SEALS),
    "a sealed memfd of zeros": lambda: memfd(1 << 20, SEALS),
    "a sealed memfd of ones": lambda: memfd(1 << 20, SEALS, b"\xff" * (1 << 20)),
    "a file": lambda: os.open("/tmp", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600),
    "a program that can only be read": lambda: os.open("/bin/sh", os.O_RDONLY | os.O_CLOEXEC),
    "a directory": lambda: os.open("/", os.O_RDONLY | os.O_CLOEXEC),
    "a path": lambda: os.open("/", os.O_PATH | os.O_CLOEXEC),
    "a device": lambda: os.open("/dev/zero", os.O_RDWR | os.O_CLOEXEC),
    "a socket": lambda: socket.socket(socket.AF_UNIX).detach(),
}


def hand_over(client: socket.socket, number: int, make: Callable[[], int], answer: bytes = b"\1") -> None:
    """``number`` descriptors of the same thing."""
    fd = make()
    try:
        socket.send_fds(client, [answer], [fd] * number)
    finally:
        os.close(fd)


ANSWERS: Final[dict[str, Callable[[socket.socket], object]]] = {
    "nothing": lambda _: None,  # the connection stays open
    "the end": lambda client: client.close(),
    "yes, and nothing": lambda client: client.sendall(b"\1"),
    "no": lambda client: client.sendall(b"\0"),
    "no, and a descriptor": lambda client: hand_over(client, 1, lambda: memfd(1 << 20, SEALS), b"\0"),
    "perhaps": lambda client: client.sendall(b"\7"),
    "garbage without end": lambda client: client.sendall(os.urandom(1 << 20)),
    "two descriptors": lambda client: hand_over(client, 2, lambda: memfd(1 << 20, SEALS)),
    "eight descriptors": lambda client: hand_over(client, 8, lambda: memfd(1 << 20, SEALS)),
    "250 descriptors": lambda client: hand_over(client, 250, lambda: memfd(1 << 20, SEALS)),
}


@contextlib.contextmanager
def impostor(path: Path, answer: Callable[[socket.socket], object]) -> Iterator[None]:
    """Serves in a writer's place: reads each question, whatever it is, and answers so."""
    with contextlib.ExitStack() as open_until_the_end:
        listener = open_until_the_end.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            with contextlib.suppress(OSError):  # shut down at the end
                while True:
                    client = open_until_the_end.enter_context(listener.accept()[0])
                    client.settimeout(5)
                    with contextlib.suppress(OSError):  # it had enough
                        client.recv(4)
                        answer(client)

        server = threading.Thread(target=serve)
        server.start()
        try:
            yield
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            server.join()
            path.unlink()
