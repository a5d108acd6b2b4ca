"""Pickle over ZMQ, in the message, as `send_pyobj` does it: what vLLM did to nested tensors until 0.8.3.

Tensors are pickled as torch pickles them, by `torch.save` of their storage.
"""

import pickle
from typing import Any

from bench.peers import sockets
from bench.peers.peer import Peer, Received, Receiver, Request, Sender, Terms


class _Sender(Sender):
    def __init__(self, address: str) -> None:
        self._socket = sockets.bound(address)

    def send(self, request: Request) -> None:
        self._socket.send(pickle.dumps(list(request), protocol=pickle.HIGHEST_PROTOCOL), copy=False)

    def close(self) -> None:
        self._socket.close(linger=1000)


class _Receiver(Receiver):
    def __init__(self, address: str) -> None:
        self._socket = sockets.connected(address)
        self._held: Received = ()

    def receive(self, tensors: int, timeout_s: float) -> Received:  # noqa: ARG002 - as many as were sent
        (frame,) = sockets.frames(self._socket, timeout_s)
        self._held = pickle.loads(frame.buffer)
        return self._held

    def drop(self) -> None:
        self._held = ()

    def close(self) -> None:
        self._socket.close(linger=0)


class ThePeer(Peer):
    name = "pickle over ZMQ"
    package = "pyzmq"

    def make(self, terms: Terms) -> Any:
        return sockets.address(terms)

    def sender(self, made: Any) -> Sender:
        return _Sender(made)

    def receiver(self, made: Any) -> Receiver:
        return _Receiver(made)
