"""Other processes to talk to: forked from this one, spawned, or unrelated, all with the same few calls.

A child runs Python that the test gives it, in a namespace that lasts as long as the child:

    child.run("reader = Reader.join(ring_id)", ring_id=ring.id)
    digest = child.ask("digest(reader.open(wire))", wire=bytes(handle))

Every call has a deadline; an error in the child fails the test with the child's traceback. ``child.kill()`` is
SIGKILL, ``child.finish()`` lets it end by itself, ``child.run_until_death()`` sends what will kill it.
"""

import contextlib
import hashlib
import multiprocessing
import os
import secrets
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from tests.support import BACKING, running_python, segment_names, stop, wait_until

Kind = Literal["fork", "spawn", "unrelated", "quick"]
KINDS: tuple[Kind, ...] = ("fork", "spawn", "unrelated")

# For tests about many deaths: forked from a process that has imported everything and done nothing.
_quick = multiprocessing.get_context("forkserver")
_quick.set_forkserver_preload(["shmtransport", "tests.processes.children"])

DEADLINE_S = 30.0

NAMES = {"posix": 2, "memfd": 1}[BACKING]
"""That a ring with one data segment has: its segments', or its socket's."""


def digest(tensor: object) -> str:
    """Of a tensor's or array's bytes in C order, with its dtype and shape."""
    if isinstance(tensor, torch.Tensor):
        raw = tensor.detach().contiguous().view(-1).view(torch.uint8).numpy()
        kind: object = tensor.dtype
    else:
        assert isinstance(tensor, np.ndarray)
        raw, kind = np.ascontiguousarray(tensor).reshape(-1).view(np.uint8), tensor.dtype
    shape = tuple(tensor.shape)
    return f"{kind} {shape} {hashlib.blake2b(raw.data).hexdigest()}"


def pixels(seed: int, nbytes: int = 1 << 20) -> torch.Tensor:
    """A float32 tensor of ``nbytes``, rounded down to 16, whose bytes depend on ``seed``; some are NaN."""
    numbers = np.random.default_rng(seed).integers(0, 1 << 31, nbytes // 16 * 4, dtype=np.int32)
    return torch.from_numpy(numbers.view(np.float32)).view(4, -1)


def serve(address: str) -> None:
    """The child's side: runs what it is given until the pipe closes."""
    torch.set_num_threads(1)  # a fork inherits no OpenMP threads, only the belief in them
    namespace: dict[str, Any] = {"digest": digest, "pixels": pixels, "torch": torch, "np": np, "os": os, "sys": sys}
    exec("from shmtransport import *\nimport shmtransport, gc, time, threading, signal, zmq", namespace)
    with Client(f"\0{address}", family="AF_UNIX") as connection:
        connection.send(os.getpid())
        while True:
            try:
                how, code, names = connection.recv()
            except (EOFError, ConnectionResetError):
                return
            namespace.update(names)
            try:
                answer = None
                if how == "ask":
                    answer = eval(code, namespace)
                else:
                    exec(code, namespace)
                connection.send((True, answer))
            except Exception:  # noqa: BLE001 - shown by the test
                connection.send((False, traceback.format_exc()))


class Child:
    """A living child. Made by `children`."""

    def __init__(self, connection: Connection, pid: int, wait: Callable[[float], int | None]) -> None:
        self.pid = pid
        self._connection = connection
        self._wait = wait

    def ask(self, expression: str, *, timeout_s: float = DEADLINE_S, **names: object) -> Any:
        """The value of ``expression`` in the child."""
        self.start("ask", expression, **names)
        return self.answer(timeout_s)

    def run(self, statements: str, *, timeout_s: float = DEADLINE_S, **names: object) -> None:
        """Runs ``statements`` in the child."""
        self.start("run", statements, **names)
        self.answer(timeout_s)

    def start(self, how: str, code: str, **names: object) -> None:
        """As `ask` or `run`, without waiting; `answer` does."""
        self._connection.send((how, code, names))

    def answer(self, timeout_s: float = DEADLINE_S) -> Any:
        """What the last `start` came to."""
        if not self._connection.poll(timeout_s):
            raise AssertionError(f"no answer from process {self.pid} within {timeout_s} s")
        fine, answer = self._connection.recv()
        if not fine:
            raise AssertionError(f"in process {self.pid}:\n{answer}")
        return answer

    def kill(self) -> None:
        """SIGKILL; returns when the process is gone."""
        os.kill(self.pid, signal.SIGKILL)
        assert self.wait() == -signal.SIGKILL

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """SIGSTOP for the length of the ``with`` block; every thread has stopped when it begins."""
        stop(self.pid)
        try:
            yield
        finally:
            os.kill(self.pid, signal.SIGCONT)

    def run_until_death(self, statements: str, **names: object) -> int:
        """Exit status of a child that ends, one way or another, in ``statements``; negative: by that signal."""
        self.start("run", statements, **names)
        with contextlib.suppress(EOFError, ConnectionResetError):
            self.answer()
            raise AssertionError(f"process {self.pid} lives on after {statements}")
        self._connection.close()
        return self.wait()

    def finish(self) -> int:
        """Lets the child end by itself; its exit status."""
        self._connection.close()
        return self.wait()

    def wait(self, timeout_s: float = DEADLINE_S) -> int:
        """Exit status, negative for a signal."""
        status = self._wait(timeout_s)
        assert status is not None, f"process {self.pid} still runs after {timeout_s} s"
        return status


def _address() -> str:
    """In the abstract namespace: nothing to remove."""
    return f"shmtransport-test-{secrets.token_hex(8)}"


@contextlib.contextmanager
def child(kind: Kind, *, prefix: Sequence[str] = (), environment: Mapping[str, str] | None = None) -> Iterator[Child]:
    """A child of ``kind``; at the end of the ``with`` block it is ended, in peace if it still listens.

    ``prefix`` and ``environment`` are for unrelated ones: see `running_python`.
    """
    address = _address()
    with Listener(f"\0{address}", family="AF_UNIX") as listener, contextlib.ExitStack() as stack:
        if kind == "unrelated":
            code = "import sys; from tests.processes.children import serve; serve(sys.argv[1])"
            popen = stack.enter_context(running_python(code, address, prefix=prefix, environment=environment))

            def wait(timeout_s: float) -> int | None:
                popen.communicate(timeout=timeout_s)
                return popen.returncode

        else:
            context: Any = _quick if kind == "quick" else multiprocessing.get_context(kind)
            process = context.Process(target=serve, args=(address,))
            process.start()
            stack.callback(process.close)
            stack.callback(process.join, 5)
            stack.callback(process.kill)

            def wait(timeout_s: float) -> int | None:
                process.join(timeout_s)
                code: int | None = process.exitcode
                return code

        listener._listener._socket.settimeout(DEADLINE_S)  # type: ignore[attr-defined]
        connection = listener.accept()
        made = Child(connection, connection.recv(), wait)
        try:
            yield made
        finally:
            with contextlib.suppress(OSError, AssertionError):
                made.finish()


def names_of(ring_id: str) -> list[str]:
    """Names of a ring's segments in /dev/shm, or of its socket."""
    return sorted(name for name in segment_names() if ring_id in name)


def wait_until_gone(ring_id: str) -> None:
    """Returns when no name of the ring is left; fails if that takes more than 5 s."""
    wait_until(lambda: not names_of(ring_id))


def mapped_by(pid: int, ring_id: str) -> int:
    """How many mappings of the ring a process has."""
    return Path(f"/proc/{pid}/maps").read_text().count(ring_id)
