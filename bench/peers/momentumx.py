"""momentumx: a stream of slots, a file in /dev/shm each; ``sync=True``, so that no message is lost.

A stream whose producer died cannot be made again (`StreamExists`), and nothing is documented that would remove it.
"""

import time
from typing import Any

import momentumx
import numpy as np

from bench.peers.peer import Payload, Peer, Receiver, Sender, Terms

POLL_S = 10e-6


class _Sender(Sender):
    def __init__(self, terms: Terms) -> None:
        self._stream = momentumx.Producer(
            terms.stem, buffer_size=terms.nbytes, buffer_count=terms.alive, sync=True, polling_interval=POLL_S
        )

    def send(self, payload: Payload) -> None:
        slot = self._stream.next_to_send()
        np.frombuffer(slot, np.uint8)[: payload.nbytes] = payload
        slot.send(payload.nbytes)

    def close(self) -> None:
        self._stream.end()
        del self._stream


class _Receiver(Receiver):
    def __init__(self, terms: Terms) -> None:
        self._stream = momentumx.Consumer(terms.stem, polling_interval=POLL_S)
        self._held: Any = None

    def receive(self, timeout_s: float) -> Payload:
        self._held = None
        deadline = time.monotonic() + timeout_s
        while (slot := self._stream.receive(blocking=False)) is None:
            if time.monotonic() > deadline:
                raise TimeoutError(f"no message within {timeout_s} s")
            time.sleep(POLL_S)
        self._held = slot
        return np.frombuffer(slot, np.uint8)[: slot.data_size]

    def close(self) -> None:
        self._held = None
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
