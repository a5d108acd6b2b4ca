"""`multiprocessing.shared_memory`: a segment a message, made by the sender, unlinked by whoever has read it.

The pattern of inference servers that pass images this way; the name travels through a queue. Python's resource
tracker, a process of its own, knows every name and unlinks those that are left when all its clients are gone.
"""

import queue
from multiprocessing import resource_tracker
from multiprocessing.shared_memory import SharedMemory
from typing import Any

import numpy as np

from bench.peers.peer import SPAWN, Payload, Peer, Receiver, Sender, Terms


def _payload_in(segment: SharedMemory, nbytes: int) -> Payload:
    return np.ndarray(nbytes, np.uint8, segment.buf)


class _Sender(Sender):
    def __init__(self, names: Any) -> None:
        self._names = names

    def send(self, payload: Payload) -> None:
        segment = SharedMemory(create=True, size=payload.nbytes)
        try:
            _payload_in(segment, payload.nbytes)[:] = payload
        except BaseException:
            segment.unlink()
            raise
        segment.close()
        self._names.put((segment.name, payload.nbytes))

    def close(self) -> None:
        self._names.close()
        self._names.join_thread()


class _Receiver(Receiver):
    def __init__(self, names: Any) -> None:
        self._names = names
        self._held: SharedMemory | None = None

    def receive(self, timeout_s: float) -> Payload:
        self.close()
        try:
            name, nbytes = self._names.get(timeout=timeout_s)
        except queue.Empty:
            raise TimeoutError(f"no message within {timeout_s} s") from None
        self._held = SharedMemory(name)
        return _payload_in(self._held, nbytes)

    def close(self) -> None:
        if self._held is not None:
            self._held.unlink()
            self._held.close()
            self._held = None


class ThePeer(Peer):
    name = "SharedMemory"
    helper = "Python's resource tracker"

    def make(self, terms: Terms) -> Any:
        resource_tracker.ensure_running()
        return SPAWN.Queue(terms.alive)

    def sender(self, made: Any) -> Sender:
        return _Sender(made)

    def receiver(self, made: Any) -> Receiver:
        return _Receiver(made)
