"""`torch.multiprocessing`: tensors through a queue; the first `put` moves their storage into shared memory.

Backings are its sharing strategies. ``file_descriptor``, the default, unlinks each segment at once and passes the
descriptor over a socket; ``file_system`` passes names, for processes that would run out of descriptors, and has a
daemon, torch_shm_manager, that unlinks what its clients leave.
"""

import queue
from typing import Any

import torch
import torch.multiprocessing

from bench.peers.peer import Payload, Peer, Receiver, Sender, Terms


class _Sender(Sender):
    def __init__(self, tensors: Any) -> None:
        self._tensors = tensors

    def send(self, payload: Payload) -> None:
        # Shared here and not by the queue's thread, which would get the error and print it.
        tensor = torch.empty(payload.nbytes, dtype=torch.uint8)
        tensor.share_memory_()  # type: ignore[no-untyped-call]
        tensor.copy_(torch.from_numpy(payload))
        self._tensors.put(tensor)

    def close(self) -> None:
        self._tensors.close()
        self._tensors.join_thread()


class _Receiver(Receiver):
    def __init__(self, tensors: Any) -> None:
        self._tensors = tensors
        self._held: torch.Tensor | None = None

    def receive(self, timeout_s: float) -> Payload:
        self._held = None
        try:
            tensor: torch.Tensor = self._tensors.get(timeout=timeout_s)
        except queue.Empty:
            raise TimeoutError(f"no message within {timeout_s} s") from None
        self._held = tensor
        return tensor.numpy()

    def close(self) -> None:
        self._held = None


class ThePeer(Peer):
    name = "torch.multiprocessing"
    package = "torch"
    backings = ("file_descriptor", "file_system")
    helper = "torch_shm_manager, Python's resource tracker"

    def make(self, terms: Terms) -> Any:
        torch.multiprocessing.set_sharing_strategy(self.backing)  # type: ignore[no-untyped-call]
        return torch.multiprocessing.get_context("spawn").Queue(terms.alive)

    def sender(self, made: Any) -> Sender:
        return _Sender(made)

    def receiver(self, made: Any) -> Receiver:
        torch.multiprocessing.set_sharing_strategy(self.backing)  # type: ignore[no-untyped-call]
        return _Receiver(made)
