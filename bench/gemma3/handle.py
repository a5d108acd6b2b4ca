"""By handle: vLLM's own request, encoder and decoder, with what this project's plugin puts beside them.

The pieces are the plugin's, called as its seams call them, without an engine around them: in the frontend the images
are staged, which is the one copy, and the encoder offers its tensors to the plugin's consumer; in the engine the
decoder asks the plugin's provider. vLLM stages in the thread that has processed the images, before the client has the
request; here it is counted as part of sending. The ring is made in one segment, as vLLM would be told to for requests
of this size, with room for one: the engine lets go of a request before the next is sent.
"""

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import zmq
from vllm.v1.engine import EngineCoreRequest
from vllm.v1.serial_utils import MsgpackDecoder, MsgpackEncoder

from bench.gemma3.today import items_of, request_of
from bench.gemma3.way import Engine, Frame, Frontend
from shmtransport import handles
from shmtransport.adapters.rings import PEER
from shmtransport.adapters.settings import Settings
from shmtransport.adapters.vllm import core
from shmtransport.adapters.vllm.sending import Consumer, SharedRing

_ROOM = 1.25
"""For what lies between blocks."""
_PAGE_NBYTES = 4096


class Staged(NamedTuple):
    """A request, and vLLM's items in it, as the renderer has them."""

    request: Any
    items: Any


class ByHandle(Frontend):
    """The plugin's part of a frontend."""

    def __init__(self, most_nbytes: int) -> None:
        self.standing_nbytes = int(_ROOM * most_nbytes) // _PAGE_NBYTES * _PAGE_NBYTES
        size = str(self.standing_nbytes)
        settings = Settings.from_environment(
            {**os.environ, "SHMTRANSPORT_CAPACITY": size, "SHMTRANSPORT_SEGMENT": size, "SHMTRANSPORT_ON_FULL": "block"}
        )
        self._shared = SharedRing(settings)
        self._ring = self._shared.acquire(0.0, 1)
        self._consumer = Consumer(settings.threshold_nbytes, None)
        self._consumer.ring = self._ring
        self._encoder = MsgpackEncoder(oob_tensor_consumer=self._consumer)
        self._peer_id: str | None = None

    def introduction(self) -> tuple[str, int]:
        return self._ring.id, handles.VERSION

    def welcomed(self, answer: dict[str, str]) -> None:
        if PEER not in answer:
            raise RuntimeError(f"the engine did not join the ring: {answer}")
        self._peer_id = answer[PEER]

    def request(self, pixels: torch.Tensor, seed: int) -> Staged:
        items = items_of(pixels)
        return Staged(request_of(items, seed), items)

    def encode(self, request: Staged) -> Sequence[Frame]:
        self._shared.stage(request.items)
        sent = self._consumer.begin(self._peer_id)
        try:
            frames: Sequence[Frame] = self._encoder.encode(request.request)
        finally:
            self._consumer.end()
        if len(sent) != len(request.items["image"]):
            raise RuntimeError(
                f"{len(sent)} of {len(request.items['image'])} images went by handle: no room in the ring"
            )
        return frames

    def close(self) -> None:
        self._consumer.ring = None
        self._shared.release(self._ring)


class FromRing(Engine):
    """The plugin's part of an EngineCore."""

    def __init__(self) -> None:
        self._plugin = core.Engine(Settings.from_environment())
        self._decoder = MsgpackDecoder(EngineCoreRequest, oob_tensor_provider=self._plugin)

    def join(self, *introduction: Any) -> dict[str, str]:
        return self._plugin.join(None, *introduction)

    def decode(self, frames: Sequence[zmq.Frame]) -> Any:
        request = self._decoder.decode(frames)
        error = self._plugin.take_error()
        if error is not None:
            raise error
        return request

    def pixels(self, request: Any) -> list[torch.Tensor]:
        return [feature.data["pixel_values"].data[0] for feature in request.mm_features]
