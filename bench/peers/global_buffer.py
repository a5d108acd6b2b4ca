"""global-buffer: a named ring of array slots in one segment; read in order by `next_into`, without an allocation.

Its `unlink(name)` is documented for what a crash leaves, so each start calls it first. The writer never waits: a
reader that falls behind loses messages, so there are as many slots as messages alive. A slot has one size, and every
message is as long.
"""

from typing import Any

import global_buffer
import numpy as np

from bench.peers.peer import Bytes, Peer, Received, Receiver, Request, Sender, Terms, bytes_of


class _Sender(Sender):
    def __init__(self, terms: Terms) -> None:
        spec = global_buffer.ArraySpec(dtype="uint8", shape=(terms.nbytes,))
        self._ring = global_buffer.create(name=terms.stem, schema=spec, capacity=terms.messages)

    def send(self, request: Request) -> None:
        for tensor in request:
            self._ring.write(bytes_of(tensor))

    def close(self) -> None:
        self._ring.close()
        self._ring.unlink()


class _Receiver(Receiver):
    def __init__(self, terms: Terms) -> None:
        self._reader = global_buffer.attach(terms.stem)
        self._places = [np.zeros(terms.nbytes, np.uint8) for _ in range(terms.tensors)]

    def receive(self, tensors: int, timeout_s: float) -> Received:
        return [self._next(place, timeout_s) for place in self._places[:tensors]]

    def _next(self, place: Bytes, timeout_s: float) -> Bytes:
        try:
            self._reader.next_into(place, timeout=timeout_s)
        except global_buffer.Empty:
            raise TimeoutError(f"no message within {timeout_s} s") from None
        return place

    def drop(self) -> None:
        pass

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
