"""`multiprocessing.shared_memory`: a segment a tensor, made by the sender, unlinked by whoever has read it.

What one writes by the standard library's documentation; the names travel through a queue. Python's resource tracker,
a process of its own, knows every name and unlinks those that are left when all its clients are gone.
"""

import queue
from multiprocessing import resource_tracker
from multiprocessing.shared_memory import SharedMemory
from typing import Any

import numpy as np

from bench.peers.peer import SPAWN, Bytes, Peer, Received, Receiver, Request, Sender, Terms, copy_into


def _bytes_in(segment: SharedMemory, nbytes: int) -> Bytes:
    return np.ndarray(nbytes, np.uint8, segment.buf)


class _Sender(Sender):
    def __init__(self, names: Any) -> None:
        self._names = names

    def send(self, request: Request) -> None:
        names = []
        for tensor in request:
            segment = SharedMemory(create=True, size=tensor.nbytes)
            try:
                copy_into(_bytes_in(segment, tensor.nbytes), tensor)
            except BaseException:
                segment.unlink()
                raise
            segment.close()
            names.append((segment.name, tensor.nbytes))
        self._names.put(names)

    def close(self) -> None:
        self._names.close()
        self._names.join_thread()


class _Receiver(Receiver):
    def __init__(self, names: Any) -> None:
        self._names = names
        self._held: list[SharedMemory] = []

    def receive(self, tensors: int, timeout_s: float) -> Received:  # noqa: ARG002 - as many as were sent
        try:
            names = self._names.get(timeout=timeout_s)
        except queue.Empty:
            raise TimeoutError(f"no message within {timeout_s} s") from None
        self._held = [SharedMemory(name) for name, _ in names]
        return [_bytes_in(segment, nbytes) for segment, (_, nbytes) in zip(self._held, names, strict=True)]

    def drop(self) -> None:
        for segment in self._held:
            segment.unlink()
            segment.close()
        self._held.clear()

    def close(self) -> None:
        self.drop()


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
