"""The two ends of a peer, each in a process of its own that does as it is told, one order at a time.

A `Pair` belongs to a process that is neither: it survives whatever happens to them, and every order has a deadline.
What can go wrong is a `Failure` that says which of the two it was, and how. Payloads are made from a seed on either
side, and the receiver compares what came byte for byte, outside of what is timed.
"""

import contextlib
import json
import multiprocessing
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal, NamedTuple

from bench.payloads import Payload
from bench.peers.peer import Terms

ROOT = Path(__file__).resolve().parents[2]
START_S = 90.0
"""An import of torch on a busy machine, twice."""
ORDER_S = 30.0

End = Literal["sender", "receiver"]


class Failure(Exception):  # noqa: N818 - of the peer, and what is looked for
    """What one end did instead of what it was told. ``sigbus``: it died of that."""

    sigbus = False


class Raised(Failure):
    """An exception, whose type and message are given: the end is still there."""


class Wrong(Failure):
    """Other bytes than were sent."""


class Hung(Failure):
    """No answer within the deadline."""


class Died(Failure):
    """The process is gone."""

    def __init__(self, end: End, status: int | None) -> None:
        self.sigbus = status == -signal.SIGBUS
        how = f"exit status {status}" if status is None or status >= 0 else signal.Signals(-status).name
        super().__init__(f"{end} died: {how}")


class Transfer(NamedTuple):
    """What one request took."""

    seconds: float
    """From the call that sends until the receiver has the tensors."""
    cpu_seconds: float
    """Of both processes, all threads."""
    faults: int
    """Of both processes."""


class Pair:
    """A living pair. Made by `pair`."""

    def __init__(self, process: subprocess.Popen[bytes], ends: dict[End, Connection], payload: Payload) -> None:
        self._process = process
        self._ends = ends
        self._payload = payload
        self.pids: dict[End, int] = {"sender": process.pid}
        self.version: str | None = None

    def wait_until_ready(self) -> None:
        """Returns when both ends are made."""
        self.pids["sender"], self.version = self._answer("sender", START_S)
        self.pids["receiver"] = self._answer("receiver", START_S)

    def begin(self, end: End, *order: object) -> None:
        """Gives an order; `finish` waits for what comes of it."""
        try:
            self._ends[end].send(order)
        except OSError:
            raise self._died(end) from None

    def finish(self, end: End, timeout_s: float = ORDER_S) -> Any:
        """What the last order to an end came to."""
        return self._answer(end, timeout_s)

    def begin_to_send(self, seed: int) -> None:
        """Does not wait for it."""
        self.begin("sender", "send", self._payload, seed)

    def send(self, seed: int) -> None:
        """One request on its way."""
        self.begin_to_send(seed)
        self.finish("sender")

    def receive(self, seed: int) -> None:
        """The next request in the receiver's hands; it must be the one of this seed. The last one is let go."""
        self._await(self._payload, seed)
        self.finish("receiver", ORDER_S + 5)

    def transfer(self, seed: int, payload: Payload | None = None) -> Transfer:
        """One request sent to a receiver that waits for it."""
        sent = payload or self._payload
        self._await(sent, seed)
        self.begin("sender", "send", sent, seed)
        began_ns = self.finish("sender", ORDER_S + 5)
        there_ns, (receiver_s, receiver_faults) = self.finish("receiver", ORDER_S + 5)
        self.begin("sender", "usage")
        sender_s, sender_faults = self.finish("sender")
        return Transfer((there_ns - began_ns) / 1e9, sender_s + receiver_s, sender_faults + receiver_faults)

    def _await(self, payload: Payload, seed: int) -> None:
        """Returns when the receiver is about to wait for it."""
        self.begin("receiver", "receive", payload, seed, ORDER_S)
        self.finish("receiver")

    def close(self) -> None:
        """Both ends closed in order, and both processes ended."""
        for end in ("receiver", "sender"):
            self.begin(end, "close")
            self.finish(end)
        try:
            status = self._process.wait(ORDER_S)
        except subprocess.TimeoutExpired:
            raise Hung(f"the sender still runs {ORDER_S:.0f} s after it was closed") from None
        if status != 0:
            raise Died("sender", status)

    def _answer(self, end: End, timeout_s: float) -> Any:
        connection = self._ends[end]
        try:
            if not connection.poll(timeout_s):
                raise Hung(f"{end} hangs: no answer within {timeout_s:.0f} s")
            how, answer = connection.recv()
        except (EOFError, ConnectionResetError):
            raise self._died(end) from None
        if how == "raised":
            raise Raised(f"{answer}")
        if how == "wrong":
            raise Wrong(f"{end}: {answer}")
        return answer

    def _died(self, end: End) -> Died:
        if end == "receiver":  # its parent knows
            with contextlib.suppress(Failure):
                self.begin("sender", "receiver_status")
                return Died(end, self._answer("sender", ORDER_S))
            if self._process.poll() is None:
                return Died(end, None)
        try:
            return Died("sender", self._process.wait(ORDER_S))
        except subprocess.TimeoutExpired:
            return Died("sender", None)


@contextlib.contextmanager
def pair(
    name: str, backing: str, terms: Terms, payload: Payload, *, python: Path = Path(sys.executable)
) -> Iterator[Pair]:
    """The two processes of a peer, started and not yet waited for, run by an environment's ``python``. At the end the
    sender, if it still runs, is killed; helpers and the receiver are the caller's, who alone knows what shall survive.
    """
    here: dict[End, Connection] = {}
    there: list[Connection] = []
    for end in ("sender", "receiver"):
        here[end], far = multiprocessing.Pipe()
        there.append(far)
    command = [str(python), "-m", "bench.peers.ends", name, backing, json.dumps(asdict(terms))]
    fds = [connection.fileno() for connection in there]
    process = subprocess.Popen(  # what a peer prints is not what its driver prints
        [*command, *map(str, fds)], cwd=ROOT, pass_fds=fds, stdin=subprocess.DEVNULL, stdout=sys.stderr.fileno()
    )
    for connection in there:
        connection.close()
    try:
        yield Pair(process, here, payload)
    finally:
        for connection in here.values():
            connection.close()
        process.kill()
        process.wait()
