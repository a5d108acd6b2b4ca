"""momentumx: a stream of slots, a file in /dev/shm each; ``sync=True``, so that no message is lost.

A stream whose producer died cannot be made again (`StreamExists`), and nothing is documented that would remove it.
"""

import time
from typing import Any

import momentumx
import numpy as np

from bench.peers.peer import Peer, Received, Receiver, Request, Sender, Terms, copy_into

POLL_S = 10e-6


class _Sender(Sender):
    def __init__(self, terms: Terms) -> None:
        self._stream = momentumx.Producer(
            terms.stem, buffer_size=terms.nbytes, buffer_count=terms.messages, sync=True, polling_interval=POLL_S
        )

    def send(self, request: Request) -> None:
        for tensor in request:
            slot = self._stream.next_to_send()
            copy_into(np.frombuffer(slot, np.uint8)[: tensor.nbytes], tensor)
            slot.send(tensor.nbytes)

    def close(self) -> None:
        self._stream.end()
        del self._stream


class _Receiver(Receiver):
    def __init__(self, terms: Terms) -> None:
        self._stream = momentumx.Consumer(terms.stem, polling_interval=POLL_S)
        self._held: list[Any] = []

    def receive(self, tensors: int, timeout_s: float) -> Received:
        deadline = time.monotonic() + timeout_s
        while len(self._held) < tensors:
            slot = self._stream.receive(blocking=False)
            if slot is not None:
                self._held.append(slot)
            elif time.monotonic() > deadline:
                raise TimeoutError(f"no message within {timeout_s} s")
            else:
                time.sleep(POLL_S)
        return [np.frombuffer(slot, np.uint8)[: slot.data_size] for slot in self._held]

    def drop(self) -> None:
        self._held.clear()

    def close(self) -> None:
        del self._stream


class ThePeer(Peer):
    name = "momentumx"
    package = "momentumx"

    def make(self, terms: Terms) -> Any:
        return terms

    def sender(self, made: Any) -> Sender:
        return _Sender(made)

    def receiver(self, made: Any) -> Receiver:
        return _Receiver(made)
