"""py-sharedmemory: a queue that copies each object into a shared block and out of it again; blocks are reused.

`put` documents `OSError` (ENOSPC) for a full /dev/shm. What killed processes leave is removed by Python's resource
tracker; there is no other call for it.
"""

import queue
from typing import Any

from py_sharedmemory import create_shared_memory_pair

from bench.peers.peer import SPAWN, Peer, Received, Receiver, Request, Sender, Terms, bytes_of


class _Sender(Sender):
    def __init__(self, end: Any) -> None:
        self._end = end

    def send(self, request: Request) -> None:
        for tensor in request:
            self._end.put(bytes_of(tensor), timeout=30)

    def close(self) -> None:
        self._end.wait_for_all_ack(timeout=30)
        self._end.close()


class _Receiver(Receiver):
    def __init__(self, end: Any) -> None:
        self._end = end

    def receive(self, tensors: int, timeout_s: float) -> Received:
        try:
            return [self._end.get(timeout=timeout_s) for _ in range(tensors)]
        except queue.Empty:
            raise TimeoutError(f"no message within {timeout_s} s") from None

    def drop(self) -> None:
        pass

    def close(self) -> None:
        self._end.close()


class ThePeer(Peer):
    name = "py-sharedmemory"
    package = "py-sharedmemory"
    helper = "Python's resource tracker"

    def make(self, terms: Terms) -> Any:
        self._sender, receiver = create_shared_memory_pair(capacity=terms.messages, ctx=SPAWN)
        return receiver

    def sender(self, made: Any) -> Sender:  # noqa: ARG002 - its own end is not for the receiver
        return _Sender(self._sender)

    def receiver(self, made: Any) -> Receiver:
        return _Receiver(made)
