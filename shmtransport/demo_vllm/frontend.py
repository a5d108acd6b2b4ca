"""vLLM's engine client, watched from outside, with the plugin on or off."""

import sys
import time
from typing import Any

from shmtransport.demo_vllm.messages import Measured

JOIN_TIMEOUT_S = 60.0
"""Meanwhile all processes map the ring, which takes a second or two for 4 GiB."""


class Frontend:
    """The synchronous client of an ``LLM``: what it is given, when, and how many bytes it sends.

    Watches its two methods on the objects themselves. Of the plugin it times `staging.stage`, which runs in
    another thread, before the client is given the request.
    """

    def __init__(self, llm: Any) -> None:
        self._client = llm.llm_engine.engine_core
        self._link = vars(self._client).get("_shmtransport_link")
        self._request_id = ""
        self._payload_nbytes = 0
        self._wire_nbytes: list[int] = []
        self._begun_s = self._sent_s = self._staged_s = 0.0
        self._watch()

    def _watch(self) -> None:
        add, encode = self._client.add_request, self._client.encoder.encode

        def add_request(request: Any) -> Any:
            items = [feature.data for feature in request.mm_features or () if feature.data is not None]
            self._request_id = request.request_id
            self._payload_nbytes = sum(item["pixel_values"].data.nbytes for item in items)
            self._wire_nbytes.clear()
            self._sent_s = time.monotonic()
            return add(request)

        def counted(message: Any) -> Any:
            parts = encode(message)
            self._wire_nbytes.append(sum(memoryview(part).nbytes for part in parts))
            return parts

        self._client.add_request = add_request
        self._client.encoder.encode = counted
        if self._link is not None:
            self._watch_staging()

    def _watch_staging(self) -> None:
        staging = sys.modules["shmtransport.adapters.vllm.staging"]
        stage = staging.stage

        def timed(*args: Any, **kwargs: Any) -> Any:
            begun_s = time.monotonic()
            try:
                return stage(*args, **kwargs)
            finally:
                self._staged_s += time.monotonic() - begun_s

        vars(staging)["stage"] = timed

    def await_join(self) -> None:
        """Until the engine has answered the plugin's call, if it is on: what is sent before that goes inline.

        An engine that refuses does not answer: after 60 s it is taken for one, and all goes inline.
        """
        deadline = time.monotonic() + JOIN_TIMEOUT_S
        while self._link is not None and not all(self._link.peers.values()) and time.monotonic() < deadline:
            time.sleep(0.01)

    def begin(self) -> None:
        """The photographs of the request that is to be measured are in hand."""
        self._staged_s = 0.0
        self._begun_s = time.monotonic()

    def measured(self, images: int) -> Measured:
        """That request, whose answer is there."""
        return Measured(
            request_id=self._request_id,
            images=images,
            payload_nbytes=self._payload_nbytes,
            wire_nbytes=self._wire_nbytes[0],
            staged_s=self._staged_s,
            sent_s=self._sent_s,
            request_s=time.monotonic() - self._begun_s,
            begun_s=self._begun_s,
        )
