"""The floor: this machine's best copy into warm shared memory, and a bare message that says it is there.

No allocator, no lease, no safety: two slots by turns, mapped and touched by both ends before the first request. What
brings tensors to another process through shared memory and tells it over ZMQ cannot be faster than that, unless it
copies less.
"""

import mmap
import secrets
from typing import Any

import numpy as np
import posix_ipc

from bench.peers import sockets
from bench.peers.peer import Bytes, Peer, Received, Receiver, Request, Sender, Terms, bytes_of
from shmtransport import _core, copying

SLOTS = 2


class Slots:
    """The memory that both ends map."""

    def __init__(self, name: str, terms: Terms, *, create: bool) -> None:
        nbytes = -(-terms.nbytes * terms.tensors // mmap.PAGESIZE) * mmap.PAGESIZE
        flags = posix_ipc.O_CREX if create else 0
        segment = posix_ipc.SharedMemory(name, flags, size=SLOTS * nbytes if create else 0, mode=0o600)
        mapped = mmap.mmap(segment.fd, SLOTS * nbytes, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE)
        segment.close_fd()
        memory: Bytes = np.frombuffer(mapped, np.uint8)
        self._slots = memory.reshape(SLOTS, nbytes)
        if create:
            memory[:: mmap.PAGESIZE] = 1
        else:
            segment.unlink()

    def of(self, number: int, lengths: list[int]) -> list[Bytes]:
        """Room for one tensor after the other in the slot whose turn it is."""
        ends = np.cumsum(lengths)
        return [self._slots[number % SLOTS, end - length : end] for end, length in zip(ends, lengths, strict=True)]


class _Sender(Sender):
    def __init__(self, made: Any) -> None:
        address, name, terms = made
        copying.prepare()
        self._slots = Slots(name, terms, create=True)
        self._footprint = SLOTS * terms.nbytes * terms.tensors
        self._socket = sockets.bound(address)
        self._number = 0

    def _copy(self, request: Request) -> list[int]:
        lengths = [tensor.nbytes for tensor in request]
        for place, tensor in zip(self._slots.of(self._number, lengths), request, strict=True):
            raw = bytes_of(tensor)
            _core.copy(place.ctypes.data, raw.ctypes.data, raw.nbytes, self._footprint)
        return lengths

    def send(self, request: Request) -> None:
        self._tell(self._copy(request))

    def _tell(self, lengths: list[int]) -> None:
        self._socket.send(np.array([self._number, *lengths]).tobytes())
        self._number += 1

    def close(self) -> None:
        self._socket.close(linger=1000)


class _Bare(_Sender):
    """Only the message: the tensors are in their slot already."""

    def prepare(self, request: Request) -> Request:
        self._copy(request)
        return request

    def send(self, request: Request) -> None:
        self._tell([tensor.nbytes for tensor in request])


class _Receiver(Receiver):
    def __init__(self, made: Any) -> None:
        address, name, terms = made
        self._slots = Slots(name, terms, create=False)
        self._socket = sockets.connected(address)

    def receive(self, tensors: int, timeout_s: float) -> Received:  # noqa: ARG002 - as many as were sent
        sockets.wait_for_message(self._socket, timeout_s)
        number, *lengths = np.frombuffer(self._socket.recv(), np.int64).tolist()
        return self._slots.of(number, lengths)

    def drop(self) -> None:
        pass

    def close(self) -> None:
        self._socket.close(linger=0)


class ThePeer(Peer):
    name = "floor"
    _end: type[_Sender] = _Sender

    def make(self, terms: Terms) -> Any:
        return sockets.address(terms), f"/{terms.stem}-{secrets.token_hex(8)}", terms

    def sender(self, made: Any) -> Sender:
        return self._end(made)

    def receiver(self, made: Any) -> Receiver:
        return _Receiver(made)


class Bare(ThePeer):
    """What a message alone takes, without payload."""

    name = "bare message"
    _end = _Bare
