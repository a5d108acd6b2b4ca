"""iceoryx2: publish and subscribe over slices of bytes; the publisher's segment is sized for the worst case.

So that the worst case is what the terms say, the service is limited as its FAQ advises: one publisher, one subscriber,
no history, no overflow. Dead nodes are cleaned up by whoever makes a node or opens a service next, by default. The
subscriber spins with `sched_yield`, since its Python listener takes longer to wake than a transfer takes.
"""

import ctypes
import os
import time
from pathlib import Path
from typing import Any

import iceoryx2
import numpy as np

from bench.peers.peer import SHARED_MEMORY, Bytes, Peer, Received, Receiver, Request, Sender, Terms, copy_into


def _service(node: Any, terms: Terms) -> Any:
    return (
        node.service_builder(iceoryx2.ServiceName.new(terms.stem))
        .publish_subscribe(iceoryx2.Slice[ctypes.c_uint8])
        .max_publishers(1)
        .max_subscribers(1)
        .subscriber_max_buffer_size(terms.messages)
        .subscriber_max_borrowed_samples(terms.tensors)
        .history_size(0)
        .enable_safe_overflow(False)
        .open_or_create()
    )


def _bytes_of(sample: Any) -> Bytes:
    return np.frombuffer(sample.payload().as_memory_view(), np.uint8)


class _Sender(Sender):
    def __init__(self, terms: Terms) -> None:
        self._node = iceoryx2.NodeBuilder.new().create(iceoryx2.ServiceType.Ipc)
        self._service = _service(self._node, terms)
        self._publisher = (
            self._service.publisher_builder().initial_max_slice_len(terms.nbytes).max_loaned_samples(1).create()
        )

    def send(self, request: Request) -> None:
        for tensor in request:
            sample = self._publisher.loan_slice_uninit(tensor.nbytes)
            copy_into(_bytes_of(sample), tensor)
            if sample.assume_init().send() != 1:
                raise RuntimeError("sent to no subscriber")

    def close(self) -> None:
        del self._publisher, self._service, self._node


class _Receiver(Receiver):
    def __init__(self, terms: Terms) -> None:
        self._node = iceoryx2.NodeBuilder.new().create(iceoryx2.ServiceType.Ipc)
        self._service = _service(self._node, terms)
        self._subscriber = self._service.subscriber_builder().create()
        self._held: list[Any] = []

    def receive(self, tensors: int, timeout_s: float) -> Received:
        deadline = time.monotonic() + timeout_s
        while len(self._held) < tensors:
            sample = self._subscriber.receive()
            if sample is not None:
                self._held.append(sample)
            elif time.monotonic() > deadline:
                raise TimeoutError(f"no message within {timeout_s} s")
            else:
                os.sched_yield()
        return [_bytes_of(sample) for sample in self._held]

    def drop(self) -> None:
        self._held.clear()

    def close(self) -> None:
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
