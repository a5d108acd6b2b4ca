"""`torch.multiprocessing`: tensors through a queue; the first `put` moves their storage into shared memory.

Backings are its sharing strategies. ``file_descriptor``, the default, unlinks each segment at once and passes the
descriptor over a socket; ``file_system`` passes names, for processes that would run out of descriptors, and has a
daemon, torch_shm_manager, that unlinks what its clients leave.
"""

import queue
from typing import Any

import torch
import torch.multiprocessing

from bench.peers.peer import Peer, Received, Receiver, Request, Sender, Terms


def _shared(tensor: torch.Tensor) -> torch.Tensor:
    """Shared here and not by the queue's thread, which would get the error and print it."""
    copy = torch.empty(tensor.shape, dtype=tensor.dtype)
    copy.share_memory_()  # type: ignore[no-untyped-call]
    return copy.copy_(tensor)


class _Sender(Sender):
    def __init__(self, tensors: Any) -> None:
        self._tensors = tensors

    def send(self, request: Request) -> None:
        self._tensors.put([_shared(tensor) for tensor in request])

    def close(self) -> None:
        self._tensors.close()
        self._tensors.join_thread()


class _Receiver(Receiver):
    def __init__(self, tensors: Any) -> None:
        self._tensors = tensors
        self._held: Received = ()

    def receive(self, tensors: int, timeout_s: float) -> Received:  # noqa: ARG002 - as many as were sent
        try:
            self._held = self._tensors.get(timeout=timeout_s)
        except queue.Empty:
            raise TimeoutError(f"no message within {timeout_s} s") from None
        return self._held

    def drop(self) -> None:
        self._held = ()

    def close(self) -> None:
        self.drop()


class ThePeer(Peer):
    name = "torch.multiprocessing"
    package = "torch"
    helper = "torch_shm_manager, Python's resource tracker"

    def make(self, terms: Terms) -> Any:
        torch.multiprocessing.set_sharing_strategy(self.backing)  # type: ignore[no-untyped-call]
        return torch.multiprocessing.get_context("spawn").Queue(terms.alive)

    def sender(self, made: Any) -> Sender:
        return _Sender(made)

    def receiver(self, made: Any) -> Receiver:
        torch.multiprocessing.set_sharing_strategy(self.backing)  # type: ignore[no-untyped-call]
        return _Receiver(made)
