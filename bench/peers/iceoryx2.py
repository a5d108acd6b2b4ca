"""iceoryx2: publish and subscribe over slices of bytes; the publisher's segment is sized for the worst case.

So that the worst case is what the terms say, the service is limited as its FAQ advises: one publisher, one subscriber,
no history, no overflow. Dead nodes are cleaned up by whoever makes a node or opens a service next, by default.
"""

import ctypes
import time
from pathlib import Path
from typing import Any

import iceoryx2
import numpy as np

from bench.peers.peer import SHARED_MEMORY, Payload, Peer, Receiver, Sender, Terms

POLL_S = 50e-6


def _service(node: Any, terms: Terms) -> Any:
    return (
        node.service_builder(iceoryx2.ServiceName.new(terms.stem))
        .publish_subscribe(iceoryx2.Slice[ctypes.c_uint8])
        .max_publishers(1)
        .max_subscribers(1)
        .subscriber_max_buffer_size(terms.alive)
        .subscriber_max_borrowed_samples(1)
        .history_size(0)
        .enable_safe_overflow(False)
        .open_or_create()
    )


def _bytes_of(sample: Any) -> Payload:
    return np.frombuffer(sample.payload().as_memory_view(), np.uint8)


class _Sender(Sender):
    def __init__(self, terms: Terms) -> None:
        self._node = iceoryx2.NodeBuilder.new().create(iceoryx2.ServiceType.Ipc)
        self._service = _service(self._node, terms)
        self._publisher = (
            self._service.publisher_builder().initial_max_slice_len(terms.nbytes).max_loaned_samples(1).create()
        )

    def send(self, payload: Payload) -> None:
        sample = self._publisher.loan_slice_uninit(payload.nbytes)
        _bytes_of(sample)[:] = payload
        if sample.assume_init().send() != 1:
            raise RuntimeError("sent to no subscriber")

    def close(self) -> None:
        del self._publisher, self._service, self._node


class _Receiver(Receiver):
    def __init__(self, terms: Terms) -> None:
        self._node = iceoryx2.NodeBuilder.new().create(iceoryx2.ServiceType.Ipc)
        self._service = _service(self._node, terms)
        self._subscriber = self._service.subscriber_builder().create()
        self._held: Any = None

    def receive(self, timeout_s: float) -> Payload:
        self._held = None
        deadline = time.monotonic() + timeout_s
        while (sample := self._subscriber.receive()) is None:
            if time.monotonic() > deadline:
                raise TimeoutError(f"no message within {timeout_s} s")
            time.sleep(POLL_S)
        self._held = sample
        return _bytes_of(sample)

    def close(self) -> None:
        self._held = None
        del self._subscriber, self._service, self._node


class ThePeer(Peer):
    name = "iceoryx2"
    package = "iceoryx2"
    places = (SHARED_MEMORY, Path("/tmp/iceoryx2"))

    def make(self, terms: Terms) -> Any:
        return terms

    def sender(self, made: Any) -> Sender:
        return _Sender(made)

    def receiver(self, made: Any) -> Receiver:
        return _Receiver(made)
