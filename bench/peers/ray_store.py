"""Ray's object store: `ray.put` copies arrays into shared memory, `ray.get` elsewhere maps them read-only.

Both ends are drivers of one local cluster that the sender starts; references travel over a socket, pickled as Ray's
documentation describes for references outside of tasks. One CPU, no dashboard: only the store is wanted.
"""

import contextlib
from typing import Any

import ray
from ray import cloudpickle

from bench.peers import sockets
from bench.peers.peer import Peer, Received, Receiver, Request, Sender, Terms, bytes_of

NAMESPACE = "shmtransport-bench"
_LEAST_STORE_NBYTES = 256 << 20


class _Sender(Sender):
    def __init__(self, address: str) -> None:
        self._socket = sockets.bound(address)
        self._alive: list[Any] = []

    def send(self, request: Request) -> None:
        reference = ray.put([bytes_of(tensor) for tensor in request])
        self._alive = [*self._alive[-1:], reference]  # the owner's reference keeps it while the receiver reads
        self._socket.send(cloudpickle.dumps(reference))

    def close(self) -> None:
        self._socket.close(linger=1000)
        ray.shutdown()


class _Receiver(Receiver):
    def __init__(self, address: str, cluster: str) -> None:
        self._socket = sockets.connected(address)
        ray.init(address=cluster, namespace=NAMESPACE, log_to_driver=False, logging_level="error")
        self._held: Received = ()

    def receive(self, tensors: int, timeout_s: float) -> Received:  # noqa: ARG002 - as many as were sent
        sockets.wait_for_message(self._socket, timeout_s)
        self._held = ray.get(cloudpickle.loads(self._socket.recv()), timeout=timeout_s)
        return self._held

    def drop(self) -> None:
        self._held = ()

    def close(self) -> None:
        self._socket.close(linger=0)
        with contextlib.suppress(Exception):
            ray.shutdown()


class ThePeer(Peer):
    name = "Ray"
    package = "ray"
    helper = "raylet, gcs_server and others"

    def make(self, terms: Terms) -> Any:
        started = ray.init(
            num_cpus=1,
            include_dashboard=False,
            object_store_memory=max(2 * terms.capacity_nbytes, _LEAST_STORE_NBYTES),
            namespace=NAMESPACE,
            log_to_driver=False,
            logging_level="error",
        )
        return sockets.address(terms), started.address_info["address"]

    def sender(self, made: Any) -> Sender:
        return _Sender(made[0])

    def receiver(self, made: Any) -> Receiver:
        return _Receiver(*made)
