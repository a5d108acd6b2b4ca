"""What runs in the two processes of a pair: `python -m bench.peers.ends` is the sender, and starts the receiver.

The receiver is a child by `multiprocessing`, since some peers hand their queues over no other way.
"""

import faulthandler
import json
import os
import sys
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import numpy as np

from bench.peers import peer_type
from bench.peers.peer import SPAWN, Payload, Receiver, Sender, Terms

LEAVE_S = 20.0


def payload_of(seed: int, nbytes: int) -> Payload:
    """Bytes that depend on the seed; no two seeds agree at more than chance places."""
    return np.frombuffer(np.random.default_rng(seed).bytes(nbytes), np.uint8)


class WrongBytesError(Exception):
    """A message came that was never sent."""


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


def receive(receiver: Receiver, terms: Terms, seed: int, timeout_s: float) -> None:
    got = receiver.receive(timeout_s)
    expected = payload_of(seed, terms.nbytes)
    if not np.array_equal(got, expected):
        differing = np.count_nonzero(got != expected) if got.shape == expected.shape else "all"
        raise WrongBytesError(f"message {seed}: {differing} of {expected.nbytes} bytes are not those that were sent")


def run_receiver(name: str, backing: str, made: Any, terms: Terms, connection: Connection) -> None:
    """The receiver's process, until it is told to close or its owner is gone."""
    receiver: Receiver | None = None

    def start() -> int:
        nonlocal receiver
        receiver = peer_type(name)(backing).receiver(made)
        return os.getpid()

    if not answer(connection, start) or receiver is None:
        return
    for order in orders(connection):
        match order:
            case "receive", seed, timeout_s:
                answer(connection, lambda: receive(receiver, terms, seed, timeout_s))
            case ("close",):
                answer(connection, receiver.close)
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

    def start() -> int:
        nonlocal process, sender
        peer = peer_type(name)(backing)
        made = peer.make(terms)
        sender = peer.sender(made)
        process = SPAWN.Process(target=run_receiver, args=(name, backing, made, terms, far), daemon=True)
        process.start()
        return os.getpid()

    started = answer(connection, start)
    far.close()
    if not started or process is None or sender is None:
        return
    for order in orders(connection):
        match order:
            case "send", seed:
                payload = payload_of(seed, terms.nbytes)
                answer(connection, lambda: sender.send(payload))  # noqa: B023 - called at once
            case ("receiver_status",):
                answer(connection, lambda: status_of(process))
            case ("close",):
                answer(connection, sender.close)
                process.join(LEAVE_S)
                return


if __name__ == "__main__":
    faulthandler.disable()  # a SIGBUS is what is looked for, and is told by the exit status
    main()
