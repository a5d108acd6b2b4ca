"""A scheduler's rank of real SGLang, in a process of its own: its request receiver, over SGLang's own broadcast.

No scheduler behind it: what the receiver gives is kept until somebody lets it go.
"""

import threading
import time
from types import SimpleNamespace
from typing import Any

import torch
import zmq
from sglang.srt.distributed.parallel_state import init_distributed_environment, initialize_model_parallel
from sglang.srt.managers.io_struct import AbortReq, MMInputsProcessError
from sglang.srt.managers.schedule_batch import MultimodalInputs
from sglang.srt.managers.scheduler_components.request_receiver import SchedulerRequestReceiver
from sglang.srt.runtime_context import SpawnRanks, publish
from sglang.srt.server_args import ServerArgs


class Rank:
    """All ranks receive together: each by itself once it was started, or by a call of `receive`."""

    def __init__(
        self, checkpoint: str, address: str, number: int, meeting: str, replica: int | None = None, **parallel: int
    ) -> None:
        arguments = ServerArgs(model_path=checkpoint, device="cpu", **parallel)
        publish(arguments, role="scheduler", ranks=SpawnRanks(world_rank=number, dp_rank=replica))
        world = parallel.get("tp_size", 1)
        init_distributed_environment(world, number, f"file://{meeting}", 0, backend="gloo")
        initialize_model_parallel(backend="gloo")
        context: Any = zmq.Context.instance()
        sockets: list[Any] = [None, None]
        if number == 0:
            sockets = [context.socket(zmq.PULL) for _ in range(2)]
            sockets[0].connect(address)
        self._receiver = SchedulerRequestReceiver(
            recv_from_tokenizer=sockets[0],
            recv_from_rpc=sockets[1],
            recv_skipper=None,
            input_blocker=None,
            mm_receiver=None,
            server_args=arguments,
            model_config=SimpleNamespace(is_multimodal=True),
            max_recv_per_poll=-1,
            stream_output=lambda *_: None,
            get_last_batch=lambda: None,
        )
        self.requests: dict[str, Any] = {}
        self.aborted: list[str] = []
        self.ended: str | None = None
        self._messages = sockets[0]

    def start(self) -> None:
        """Receives in a thread from here on, as long as the other ranks live."""
        threading.Thread(target=self._run, daemon=True).start()

    def receive(self) -> tuple[float, float]:
        """The next request, once; when that began and ended, by CLOCK_MONOTONIC in seconds."""
        if self._messages is not None and not self._messages.poll(10_000):
            raise TimeoutError("no request within 10 s")
        began_s = time.monotonic()
        self._receive()
        return began_s, time.monotonic()

    def _run(self) -> None:
        try:
            while True:
                self._receive()
                time.sleep(0.001)
        except Exception as error:  # noqa: BLE001 - a fellow rank is gone
            self.ended = repr(error)

    def _receive(self) -> None:
        for request in self._receiver.recv_requests():
            if isinstance(request, AbortReq):
                self.requests.pop(request.rid, None)
                self.aborted.append(request.rid)
            else:
                self.requests[request.rid] = request

    def error(self, rid: str) -> str | None:
        """Of a request that has come, if it has one."""
        inputs = self.requests[rid].mm_inputs
        return inputs.message if isinstance(inputs, MMInputsProcessError) else None

    def tensors(self, rid: str) -> list[torch.Tensor]:
        """Of a request that has come."""
        found: list[torch.Tensor] = []
        for item in self.requests[rid].mm_inputs.mm_items:
            value = item.feature if item.feature is not None else item.precomputed_embeddings
            found.extend(value if isinstance(value, (list, tuple)) else [value])
        return found

    def release(self, rid: str) -> None:
        """As a scheduler when a request is finished."""
        MultimodalInputs(mm_items=self.requests.pop(rid).mm_inputs.mm_items).release_features()
