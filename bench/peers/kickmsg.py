"""kickmsg: publish and subscribe over a pool of slots in one segment a topic; both ends without a copy of their own.

Its examples call `unlink_topic` before they advertise, so each start does; a namespace's registry of 2 MB stays for
inspection until `Registry.unlink`, which each start and each end calls. The pool is `allocate`d from; None is its
documented answer when no slot is free.
"""

from typing import Any

import kickmsg
import numpy as np

from bench.peers.peer import Payload, Peer, Receiver, Sender, Terms

TOPIC = "payload"


class _Sender(Sender):
    def __init__(self, terms: Terms) -> None:
        slots = kickmsg.Config()
        slots.max_subscribers = 1
        slots.sub_ring_capacity = 1 << (terms.alive - 1).bit_length()
        slots.pool_size = slots.sub_ring_capacity + 1  # a slot that was read stays in the ring until it comes round
        slots.max_payload_size = terms.nbytes
        self._stem = terms.stem
        kickmsg.Registry.unlink(terms.stem)
        self._node = kickmsg.Node("sender", terms.stem)
        self._node.unlink_topic(TOPIC)
        self._publisher = self._node.advertise(TOPIC, slots)

    def send(self, payload: Payload) -> None:
        slot = self._publisher.allocate()
        if slot is None:
            raise BlockingIOError("allocate() answers None: the pool is exhausted")
        np.asarray(slot)[: payload.nbytes] = payload
        if slot.publish(payload.nbytes) != 1:
            raise RuntimeError("published to no subscriber")

    def close(self) -> None:
        self._node.unlink_topic(TOPIC)
        kickmsg.Registry.unlink(self._stem)


class _Receiver(Receiver):
    def __init__(self, terms: Terms) -> None:
        self._node = kickmsg.Node("receiver", terms.stem)
        self._subscriber = self._node.subscribe(TOPIC)
        self._held: Any = None

    def receive(self, timeout_s: float) -> Payload:
        self.close()
        self._held = self._subscriber.receive_view(timeout_s)
        if self._held is None:
            raise TimeoutError(f"no message within {timeout_s} s")
        return np.frombuffer(self._held, np.uint8)

    def close(self) -> None:
        if self._held is not None:
            self._held.release()
            self._held = None


class ThePeer(Peer):
    name = "kickmsg"
    package = "kickmsg"

    def make(self, terms: Terms) -> Any:
        return terms

    def sender(self, made: Any) -> Sender:
        return _Sender(made)

    def receiver(self, made: Any) -> Receiver:
        return _Receiver(made)
