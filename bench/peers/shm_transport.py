"""This project: a ring, and a channel that sends handles over ZMQ.

Backings: named segments in /dev/shm, or anonymous ones whose descriptors are handed over a socket.
``on_full="raise"``, so that one sees the error; under the default, ``"inline"``, what does not fit travels in the
message and there is none. Every new ring first removes what dead processes left.
"""

import os
from pathlib import Path
from typing import Any, cast

from bench.peers import sockets
from bench.peers.peer import SHARED_MEMORY, Peer, Received, Receiver, Request, Sender, Terms
from shmtransport import Channel, Ring, WaitTimeoutError
from shmtransport.config import BackingName

JOIN_S = 30.0
_PAGE_NBYTES = 4096


class _Sender(Sender):
    def __init__(self, address: str, terms: Terms, backing: BackingName) -> None:
        self._socket = sockets.bound(address)
        request = terms.tensors * -(-terms.nbytes // _PAGE_NBYTES) * _PAGE_NBYTES
        self._ring = Ring.create(
            terms.alive * request, segment=request, on_full="raise", name=terms.stem, backing=backing
        )
        self._channel = Channel(self._socket, self._ring)
        self._joined = False

    def _join(self) -> None:
        if not self._joined:
            self._joined = self._channel.join(timeout_s=JOIN_S)
            if not self._joined:
                raise RuntimeError("the receiver did not join: everything would go inline")

    def send(self, request: Request) -> None:
        self._join()
        self._channel.send(list(request))

    def close(self) -> None:
        self._channel.close()
        self._ring.close()
        self._socket.close(linger=1000)


class _InPlace(_Sender):
    """The producer has written into the ring: there is nothing left to copy."""

    def prepare(self, request: Request) -> Request:
        return [self._ring.put(tensor) for tensor in request]


class _Receiver(Receiver):
    def __init__(self, address: str) -> None:
        self._socket = sockets.connected(address)
        self._channel = Channel(self._socket)
        self._held: Received = ()

    def receive(self, tensors: int, timeout_s: float) -> Received:  # noqa: ARG002 - as many as were sent
        try:
            self._held = cast(Received, self._channel.recv(timeout_s=timeout_s))
        except WaitTimeoutError:
            raise TimeoutError(f"no message within {timeout_s} s") from None
        return self._held

    def drop(self) -> None:
        self._held = ()

    def close(self) -> None:
        self._channel.close()
        self._socket.close(linger=1000)


class ThePeer(Peer):
    name = "shmtransport"
    package = "shmtransport"
    places = (SHARED_MEMORY, Path(f"/tmp/shmt-{os.getuid()}"))
    _end: type[_Sender] = _Sender

    def make(self, terms: Terms) -> Any:
        return sockets.address(terms), terms

    def sender(self, made: Any) -> Sender:
        address, terms = made
        return self._end(address, terms, cast(BackingName, self.backing))

    def receiver(self, made: Any) -> Receiver:
        return _Receiver(made[0])


class InPlace(ThePeer):
    """What it takes where the tensors were written into the ring in the first place."""

    name = "shmtransport in place"
    _end = _InPlace
