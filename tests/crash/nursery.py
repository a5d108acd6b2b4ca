"""Processes whose core has kill points, a few milliseconds each: forked from one that has imported everything.

The same calls as tests.processes.children, whose forkserver has imported the ordinary core.
"""

import contextlib
import gc
import os
import secrets
import signal
import sys
from collections.abc import Iterator
from multiprocessing.connection import Client, Connection, Listener

from tests.processes.children import DEADLINE_S, Child
from tests.support import running_python


class Nursery:
    """Where they come from. Made by `nursery`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._living: set[int] = set()

    def child(self) -> Child:
        """A new process; `kill_all` or its own end ends it."""
        address = f"shmtransport-crash-{secrets.token_hex(8)}"
        with Listener(f"\0{address}", family="AF_UNIX") as listener:
            self._connection.send(address)
            pid = self._connection.recv()
            self._living.add(pid)
            listener._listener._socket.settimeout(DEADLINE_S)  # type: ignore[attr-defined]
            connection = listener.accept()
        assert connection.recv() == pid
        return Child(connection, pid, lambda timeout_s: self._status(pid, timeout_s))

    def _status(self, pid: int, timeout_s: float) -> int | None:
        self._connection.send(pid)
        if not self._connection.poll(timeout_s):
            return None
        self._living.discard(pid)
        status: int = self._connection.recv()
        return status

    def kill_all(self) -> None:
        """Kills those that nobody has waited for."""
        for pid in self._living:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._living.clear()


@contextlib.contextmanager
def nursery() -> Iterator[Nursery]:
    """A nursery for the time of the ``with`` block."""
    address = f"shmtransport-crash-{secrets.token_hex(8)}"
    with (
        Listener(f"\0{address}", family="AF_UNIX") as listener,
        running_python("import sys; from tests.crash.nursery import run; run(sys.argv[1])", address),
    ):
        listener._listener._socket.settimeout(DEADLINE_S)  # type: ignore[attr-defined]
        with listener.accept() as connection:
            made = Nursery(connection)
            try:
                yield made
            finally:
                made.kill_all()


def run(address: str) -> None:
    """The nursery's side: forks for each address that it is sent, waits for each pid."""
    from tests.crash.kill_points import install

    install()
    import shmtransport  # noqa: F401 - so that no child has to
    from tests.processes.children import serve

    gc.freeze()  # a child that ends does not look through all modules once more
    with Client(f"\0{address}", family="AF_UNIX") as connection:
        while True:
            try:
                wish = connection.recv()
            except EOFError:
                return
            if isinstance(wish, int):
                connection.send(os.waitstatus_to_exitcode(os.waitpid(wish, 0)[1]))
            elif pid := os.fork():
                connection.send(pid)
            else:
                break
    serve(wish)  # with the parent's connection closed; then this process ends as any other
    sys.exit()
