"""The pattern of SGLang 0.5.23's `ShmPointerMMData`: a segment a tensor, made, filled and closed by the sender.

Its wheel asks for a GPU's libraries, so this is written after it; `bench/sglang_pointer.py` runs the class itself, in
an environment of its own. Names travel pickled over ZMQ; the pages are reserved before the copy, and so a full /dev/shm
is an error; the receiver maps each segment privately, copy on write, and unlinks it.
"""

import mmap
import os
from multiprocessing.shared_memory import SharedMemory
from typing import Any

import torch

from bench.peers import sockets
from bench.peers.peer import Peer, Received, Receiver, Request, Sender, Terms

Pointer = tuple[str, torch.dtype, torch.Size]


def _fd_of(segment: SharedMemory) -> int:
    """`ShmPointerMMData` takes it from there too."""
    fd: int = segment._fd  # type: ignore[attr-defined]
    return fd


class _Sender(Sender):
    def __init__(self, address: str) -> None:
        self._socket = sockets.bound(address)

    def send(self, request: Request) -> None:
        self._socket.send_pyobj([_written(tensor) for tensor in request])

    def close(self) -> None:
        self._socket.close(linger=1000)


def _written(tensor: torch.Tensor) -> Pointer:
    contiguous = tensor.contiguous()
    segment = SharedMemory(create=True, size=contiguous.nbytes)
    try:
        os.posix_fallocate(_fd_of(segment), 0, contiguous.nbytes)
        torch.frombuffer(segment.buf, dtype=torch.uint8).copy_(contiguous.view(-1).view(torch.uint8))
    except BaseException:
        segment.close()
        segment.unlink()
        raise
    segment.close()
    return segment.name, contiguous.dtype, contiguous.shape


def _mapped(pointer: Pointer) -> torch.Tensor:
    name, dtype, shape = pointer
    segment = SharedMemory(name)
    try:
        memory = mmap.mmap(_fd_of(segment), shape.numel() * dtype.itemsize, access=mmap.ACCESS_COPY)
        return torch.frombuffer(memory, dtype=dtype).reshape(shape)
    finally:
        segment.unlink()
        segment.close()


class _Receiver(Receiver):
    def __init__(self, address: str) -> None:
        self._socket = sockets.connected(address)
        self._held: Received = ()

    def receive(self, tensors: int, timeout_s: float) -> Received:  # noqa: ARG002 - as many as were sent
        sockets.wait_for_message(self._socket, timeout_s)
        self._held = [_mapped(pointer) for pointer in self._socket.recv_pyobj()]
        return self._held

    def drop(self) -> None:
        self._held = ()

    def close(self) -> None:
        self._socket.close(linger=0)


class ThePeer(Peer):
    name = "SGLang's pattern"
    helper = "Python's resource tracker"

    def make(self, terms: Terms) -> Any:
        return sockets.address(terms)

    def sender(self, made: Any) -> Sender:
        return _Sender(made)

    def receiver(self, made: Any) -> Receiver:
        return _Receiver(made)
