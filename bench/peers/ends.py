"""What runs in the two processes of a pair: `python -m bench.peers.ends` is the sender, and starts the receiver.

The receiver is a child by `multiprocessing`, since some peers hand their queues over no other way.
"""

import faulthandler
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import numpy as np

from bench.payloads import Payload
from bench.peers import peer_type
from bench.peers.peer import SPAWN, Received, Receiver, Request, Sender, Terms, bytes_of

LEAVE_S = 20.0
POOL = 3
"""Requests of a payload that are kept ready, so that none is sent twice in a row."""


class WrongBytesError(Exception):
    """A request came that was never sent."""


def answer(connection: Connection, call: Callable[[], Any]) -> bool:
    """Says what ``call`` came to; whether it returned."""
    try:
        connection.send(("done", call()))
    except WrongBytesError as error:
        connection.send(("wrong", str(error)))
        return False
    except BaseException as error:  # noqa: BLE001 - a peer may raise anything, a panic of its native code included
        connection.send(("raised", f"{type(error).__name__}: {error}".replace("\n", " ")))
        return False
    return True


class Pool:
    """The requests of one payload at a time, made when first asked for."""

    def __init__(self) -> None:
        self._payload: Payload | None = None
        self._requests: dict[int, Request] = {}

    def request(self, payload: Payload, seed: int) -> Request:
        """That of this seed; seeds that differ by `POOL` are the same."""
        if payload != self._payload:
            self._payload, self._requests = payload, {}
        if seed % POOL not in self._requests:
            self._requests[seed % POOL] = payload.request(seed % POOL)
        return self._requests[seed % POOL]


def check(received: Received, expected: Request, seed: int) -> None:
    """Byte for byte."""
    if len(received) != len(expected):
        raise WrongBytesError(f"request {seed}: {len(received)} tensors, {len(expected)} were sent")
    for number, (got, should) in enumerate(zip(map(bytes_of, received), map(bytes_of, expected), strict=True)):
        if not np.array_equal(got, should):
            differing = np.count_nonzero(got != should) if got.shape == should.shape else "all"
            raise WrongBytesError(f"request {seed}, tensor {number}: {differing} of {should.nbytes} bytes differ")


class Usage:
    """CPU seconds and page faults of this process, threads included, since `begin`."""

    def begin(self) -> None:
        self._before = resource.getrusage(resource.RUSAGE_SELF)

    def end(self) -> tuple[float, int]:
        now, before = resource.getrusage(resource.RUSAGE_SELF), self._before
        seconds = now.ru_utime + now.ru_stime - before.ru_utime - before.ru_stime
        return seconds, now.ru_minflt + now.ru_majflt - before.ru_minflt - before.ru_majflt


def run_receiver(name: str, backing: str, made: Any, terms: Terms, connection: Connection) -> None:  # noqa: ARG001
    """The receiver's process, until it is told to close or its owner is gone."""
    receiver: Receiver | None = None
    pool, usage = Pool(), Usage()

    def start() -> int:
        nonlocal receiver
        receiver = peer_type(name)(backing).receiver(made)
        return os.getpid()

    if not answer(connection, start) or receiver is None:
        return
    arrived: Receiver = receiver

    def receive(payload: Payload, seed: int, timeout_s: float) -> tuple[int, tuple[float, int]]:
        """When it was there, and what that took."""
        arrived.drop()
        expected = pool.request(payload, seed)
        connection.send(("done", "waiting"))
        usage.begin()
        received = arrived.receive(payload.tensors, timeout_s)
        there_ns = time.monotonic_ns()
        used = usage.end()
        check(received, expected, seed)
        return there_ns, used

    for order in orders(connection):
        match order:
            case "receive", payload, seed, timeout_s:
                answer(connection, lambda: receive(payload, seed, timeout_s))
            case ("close",):
                arrived.drop()
                answer(connection, arrived.close)
                return


def orders(connection: Connection) -> Iterator[Any]:
    """What this process is told, until its owner is gone."""
    while True:
        try:
            yield connection.recv()
        except (EOFError, ConnectionResetError):
            return


def status_of(process: BaseProcess) -> int | None:
    process.join(LEAVE_S)
    return process.exitcode


def main() -> None:
    name, backing, terms_json, own_fd, receiver_fd = sys.argv[1:]
    terms = Terms(**json.loads(terms_json))
    connection, far = Connection(int(own_fd)), Connection(int(receiver_fd))
    for fd in (connection.fileno(), far.fileno()):
        os.set_inheritable(fd, False)  # a helper that outlives this process must not look like it
    process: BaseProcess | None = None
    sender: Sender | None = None
    version: str | None = None
    pool, usage = Pool(), Usage()

    def start() -> tuple[int, str | None]:
        nonlocal process, sender, version
        peer = peer_type(name)(backing)
        made = peer.make(terms)
        sender = peer.sender(made)
        process = SPAWN.Process(target=run_receiver, args=(name, backing, made, terms, far), daemon=True)
        process.start()
        return os.getpid(), peer.version()

    started = answer(connection, start)
    far.close()
    if not started or process is None or sender is None:
        return
    sending: Sender = sender

    def send(payload: Payload, seed: int) -> int:
        """When it began."""
        request = sending.prepare(pool.request(payload, seed))
        usage.begin()
        began_ns = time.monotonic_ns()
        sending.send(request)
        return began_ns

    for order in orders(connection):
        match order:
            case "send", payload, seed:
                answer(connection, lambda: send(payload, seed))
            case ("usage",):
                answer(connection, usage.end)
            case ("receiver_status",):
                answer(connection, lambda: status_of(process))
            case ("close",):
                answer(connection, sending.close)
                process.join(LEAVE_S)
                return


if __name__ == "__main__":
    faulthandler.disable()  # a SIGBUS is what is looked for, and is told by the exit status
    main()
