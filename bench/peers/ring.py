"""This project: a ring, and a channel that sends handles over ZMQ.

Backings: named segments in /dev/shm, or anonymous ones whose descriptors are handed over a socket.
``on_full="raise"``, so that one sees the error; under the default, ``"inline"``, what does not fit travels in the
message and there is none. Every new ring first removes what dead processes left.
"""

import os
import secrets
from pathlib import Path
from typing import Any, cast

import zmq

from bench.peers.peer import SHARED_MEMORY, Payload, Peer, Receiver, Sender, Terms
from shmtransport import Channel, Ring, WaitTimeoutError
from shmtransport.config import BACKINGS, BackingName

JOIN_S = 30.0


class _Sender(Sender):
    def __init__(self, address: str, terms: Terms, backing: BackingName) -> None:
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.PAIR)
        self._socket.bind(address)
        capacity = terms.alive * terms.nbytes
        self._ring = Ring.create(capacity, segment=terms.nbytes, on_full="raise", name=terms.stem, backing=backing)
        self._channel = Channel(self._socket, self._ring)
        self._joined = False

    def send(self, payload: Payload) -> None:
        if not self._joined:
            self._joined = self._channel.join(timeout_s=JOIN_S)
            if not self._joined:
                raise RuntimeError("the receiver did not join: everything would go inline")
        self._channel.send(self._ring.put(payload))

    def close(self) -> None:
        self._channel.close()
        self._ring.close()
        self._socket.close(linger=1000)


class _Receiver(Receiver):
    def __init__(self, address: str) -> None:
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.PAIR)
        self._socket.connect(address)
        self._channel = Channel(self._socket)
        self._held: Payload | None = None

    def receive(self, timeout_s: float) -> Payload:
        self._held = None
        try:
            self._held = cast(Payload, self._channel.recv(timeout_s=timeout_s))
        except WaitTimeoutError:
            raise TimeoutError(f"no message within {timeout_s} s") from None
        return self._held

    def close(self) -> None:
        self._held = None
        self._channel.close()
        self._socket.close(linger=1000)


class ThePeer(Peer):
    name = "shmtransport"
    package = "shmtransport"
    backings = BACKINGS
    places = (SHARED_MEMORY, Path(f"/tmp/shmt-{os.getuid()}"))

    def make(self, terms: Terms) -> Any:
        return f"ipc://@{terms.stem}-{secrets.token_hex(8)}", terms  # an abstract address: no file

    def sender(self, made: Any) -> Sender:
        address, terms = made
        return _Sender(address, terms, cast(BackingName, self.backing))

    def receiver(self, made: Any) -> Receiver:
        return _Receiver(made[0])
