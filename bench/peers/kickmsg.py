"""kickmsg: publish and subscribe over a pool of slots in one segment a topic; both ends without a copy of their own.

Its examples call `unlink_topic` before they advertise, so each start does; a namespace's registry of 2 MB stays for
inspection until `Registry.unlink`, which each start and each end calls. The pool is `allocate`d from; None is its
documented answer when no slot is free.
"""

from typing import Any

import kickmsg
import numpy as np

from bench.peers.peer import Peer, Received, Receiver, Request, Sender, Terms, copy_into

TOPIC = "payload"


class _Sender(Sender):
    def __init__(self, terms: Terms) -> None:
        slots = kickmsg.Config()
        slots.max_subscribers = 1
        slots.sub_ring_capacity = 1 << (terms.messages - 1).bit_length()
        slots.pool_size = slots.sub_ring_capacity + terms.tensors  # what was read stays in the ring for one round
        slots.max_payload_size = terms.nbytes
        self._stem = terms.stem
        kickmsg.Registry.unlink(terms.stem)
        self._node = kickmsg.Node("sender", terms.stem)
        self._node.unlink_topic(TOPIC)
        self._publisher = self._node.advertise(TOPIC, slots)

    def send(self, request: Request) -> None:
        for tensor in request:
            slot = self._publisher.allocate()
            if slot is None:
                raise BlockingIOError("allocate() answers None: the pool is exhausted")
            copy_into(np.asarray(slot)[: tensor.nbytes], tensor)
            if slot.publish(tensor.nbytes) != 1:
                raise RuntimeError("published to no subscriber")

    def close(self) -> None:
        self._node.unlink_topic(TOPIC)
        kickmsg.Registry.unlink(self._stem)


class _Receiver(Receiver):
    def __init__(self, terms: Terms) -> None:
        self._node = kickmsg.Node("receiver", terms.stem)
        self._subscriber = self._node.subscribe(TOPIC)
        self._held: list[Any] = []

    def receive(self, tensors: int, timeout_s: float) -> Received:
        for _ in range(tensors):
            view = self._subscriber.receive_view(timeout_s)
            if view is None:
                raise TimeoutError(f"no message within {timeout_s} s")
            self._held.append(view)
        return [np.frombuffer(view, np.uint8) for view in self._held]

    def drop(self) -> None:
        for view in self._held:
            view.release()
        self._held.clear()

    def close(self) -> None:
        self.drop()


class ThePeer(Peer):
    name = "kickmsg"
    package = "kickmsg"

    def make(self, terms: Terms) -> Any:
        return terms

    def sender(self, made: Any) -> Sender:
        return _Sender(made)

    def receiver(self, made: Any) -> Receiver:
        return _Receiver(made)
