"""A data-parallel controller of real SGLang, in a process of its own: what it does with a request, on real sockets."""

import threading
from collections.abc import Sequence
from typing import Any

import zmq
from sglang.srt.managers.data_parallel_controller import DataParallelController
from sglang.srt.managers.io_struct import sock_recv
from sglang.srt.runtime_context import publish
from sglang.srt.server_args import ServerArgs


class Controller:
    """Gives each request from ``address`` to the next of ``workers``, in a thread of its own."""

    def __init__(self, checkpoint: str, address: str, workers: Sequence[str]) -> None:
        publish(ServerArgs(model_path=checkpoint, device="cpu", dp_size=len(workers)), role="scheduler")
        context: Any = zmq.Context.instance()
        self._requests = context.socket(zmq.PULL)
        self._requests.connect(address)
        controller = DataParallelController.__new__(DataParallelController)
        controller.workers = [context.socket(zmq.PUSH) for _ in workers]
        for socket, worker in zip(controller.workers, workers, strict=True):
            socket.bind(worker)
        controller._active_workers = list(range(len(workers)))
        controller.status = [True] * len(workers)
        controller.round_robin_counter = 0
        controller.refresh_load_budget_on_dispatch = False
        controller.dispatching = controller.round_robin_scheduler
        controller.init_dispatcher()
        self._controller: Any = controller
        self.error: str | None = None
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        try:
            while True:
                self._controller._request_dispatcher(sock_recv(self._requests))
        except Exception as error:  # noqa: BLE001 - told to the test
            self.error = repr(error)
