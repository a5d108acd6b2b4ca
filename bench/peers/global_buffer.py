"""global-buffer: a named ring of array slots in one segment; read in order by `next_into`, without an allocation.

Its `unlink(name)` is documented for what a crash leaves, so each start calls it first. The writer never waits: a
reader that falls behind loses messages, so there are as many slots as messages alive.
"""

from typing import Any

import global_buffer
import numpy as np

from bench.peers.peer import Payload, Peer, Receiver, Sender, Terms


class _Sender(Sender):
    def __init__(self, terms: Terms) -> None:
        spec = global_buffer.ArraySpec(dtype="uint8", shape=(terms.nbytes,))
        self._ring = global_buffer.create(name=terms.stem, schema=spec, capacity=terms.alive)

    def send(self, payload: Payload) -> None:
        self._ring.write(payload)

    def close(self) -> None:
        self._ring.close()
        self._ring.unlink()


class _Receiver(Receiver):
    def __init__(self, terms: Terms) -> None:
        self._reader = global_buffer.attach(terms.stem)
        self._payload = np.zeros(terms.nbytes, np.uint8)

    def receive(self, timeout_s: float) -> Payload:
        try:
            self._reader.next_into(self._payload, timeout=timeout_s)
        except global_buffer.Empty:
            raise TimeoutError(f"no message within {timeout_s} s") from None
        return self._payload

    def close(self) -> None:
        self._reader.close()


class ThePeer(Peer):
    name = "global-buffer"
    package = "global-buffer"

    def make(self, terms: Terms) -> Any:
        global_buffer.unlink(terms.stem)
        return terms

    def sender(self, made: Any) -> Sender:
        return _Sender(made)

    def receiver(self, made: Any) -> Receiver:
        return _Receiver(made)
