"""`multiprocessing.Queue`: arrays pickled into a pipe by a thread of the queue's."""

import queue
from typing import Any

from bench.peers.peer import SPAWN, Peer, Received, Receiver, Request, Sender, Terms, bytes_of


class _Sender(Sender):
    def __init__(self, arrays: Any) -> None:
        self._arrays = arrays

    def send(self, request: Request) -> None:
        """The queue's thread still reads the arrays when this returns; the tensors here are not written to."""
        self._arrays.put([bytes_of(tensor) for tensor in request])

    def close(self) -> None:
        self._arrays.close()
        self._arrays.join_thread()


class _Receiver(Receiver):
    def __init__(self, arrays: Any) -> None:
        self._arrays = arrays
        self._held: Received = ()

    def receive(self, tensors: int, timeout_s: float) -> Received:  # noqa: ARG002 - as many as were sent
        try:
            self._held = self._arrays.get(timeout=timeout_s)
        except queue.Empty:
            raise TimeoutError(f"no message within {timeout_s} s") from None
        return self._held

    def drop(self) -> None:
        self._held = ()

    def close(self) -> None:
        self.drop()


class ThePeer(Peer):
    name = "multiprocessing.Queue"

    def make(self, terms: Terms) -> Any:
        return SPAWN.Queue(terms.alive)

    def sender(self, made: Any) -> Sender:
        return _Sender(made)

    def receiver(self, made: Any) -> Receiver:
        return _Receiver(made)
