"""Pickle protocol 5 out of band over ZMQ: a frame a tensor, sent and received without a copy of ours.

Arrays, since torch's tensors do not pickle out of band; what is not contiguous is copied by numpy first. The sender
waits until ZMQ is done with its memory, which is not part of a transfer's time.
"""

import pickle
from typing import Any

import torch
import zmq

from bench.peers import sockets
from bench.peers.peer import Peer, Received, Receiver, Request, Sender, Terms

SENT_S = 30.0


class _Sender(Sender):
    def __init__(self, address: str) -> None:
        self._socket = sockets.bound(address)

    def send(self, request: Request) -> None:
        buffers: list[pickle.PickleBuffer] = []
        arrays = [_as_array(tensor) for tensor in request]
        head = pickle.dumps(arrays, protocol=5, buffer_callback=buffers.append)
        frames: list[Any] = [head, *(buffer.raw() for buffer in buffers)]
        tracker = self._socket.send_multipart(frames, copy=False, track=True)
        if not isinstance(tracker, zmq.MessageTracker):
            raise RuntimeError("expected a tracker of a tracked message, got none")
        tracker.wait(SENT_S)

    def close(self) -> None:
        self._socket.close(linger=1000)


def _as_array(tensor: torch.Tensor) -> Any:
    """numpy has no bfloat16."""
    contiguous = tensor.contiguous()
    return contiguous.view(torch.int16).numpy() if tensor.dtype == torch.bfloat16 else contiguous.numpy()


class _Receiver(Receiver):
    def __init__(self, address: str) -> None:
        self._socket = sockets.connected(address)
        self._held: Received = ()

    def receive(self, tensors: int, timeout_s: float) -> Received:  # noqa: ARG002 - as many as were sent
        head, *buffers = sockets.frames(self._socket, timeout_s)
        self._held = pickle.loads(head.buffer, buffers=[frame.buffer for frame in buffers])
        return self._held

    def drop(self) -> None:
        self._held = ()

    def close(self) -> None:
        self._socket.close(linger=0)


class ThePeer(Peer):
    name = "protocol 5 over ZMQ"
    package = "pyzmq"

    def make(self, terms: Terms) -> Any:
        return sockets.address(terms)

    def sender(self, made: Any) -> Sender:
        return _Sender(made)

    def receiver(self, made: Any) -> Receiver:
        return _Receiver(made)
