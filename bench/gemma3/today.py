"""As vLLM does it today: the installed release's own request, encoder and decoder, without any plugin.

Each big tensor is a frame of its own that zmq sends from where it lies, and the engine's tensor lies in the frame that
zmq received. Items are made by vLLM's own classes, with the fields that its Gemma-3 processor gives them.
"""

from collections.abc import Sequence
from typing import Any

import torch
import zmq
from vllm.multimodal.inputs import (
    MultiModalFeatureSpec,
    MultiModalFieldConfig,
    MultiModalKwargsItems,
    PlaceholderRange,
)
from vllm.sampling_params import SamplingParams
from vllm.v1.engine import EngineCoreRequest
from vllm.v1.serial_utils import MsgpackDecoder, MsgpackEncoder

from bench.gemma3 import images
from bench.gemma3.way import Engine, Frame, Frontend


def items_of(batch: torch.Tensor) -> Any:
    """vLLM's items for a batch: views of it."""
    patches = torch.ones(len(batch), dtype=torch.int64)
    fields = {
        "pixel_values": MultiModalFieldConfig.flat_from_sizes("image", patches),
        "num_patches": MultiModalFieldConfig.batched("image", keep_on_cpu=True),
    }
    return MultiModalKwargsItems.from_hf_inputs({"pixel_values": batch, "num_patches": patches}, fields)


def request_of(items: Any, seed: int) -> Any:
    """vLLM's request with these images."""
    features = [
        MultiModalFeatureSpec(
            data=item,
            modality="image",
            identifier=images.digest(seed, number),
            mm_position=PlaceholderRange(offset, length, _embedded(length)),
            mm_hash=images.digest(seed, number),
        )
        for number, (item, (offset, length)) in enumerate(
            zip(items["image"], images.places(len(items["image"])), strict=True)
        )
    ]
    return EngineCoreRequest(
        request_id=f"request-{seed}",
        prompt_token_ids=images.prompt(len(features)),
        mm_features=features,
        sampling_params=SamplingParams(max_tokens=16),
        pooling_params=None,
        arrival_time=0.0,
        lora_request=None,
        cache_salt=None,
        data_parallel_rank=None,
    )


def _embedded(length: int) -> torch.Tensor:
    """Which of an image's tokens are replaced: all but the two on either side."""
    places = torch.zeros(length, dtype=torch.bool)
    places[2:-2] = True
    return places


class InFrames(Frontend):
    """vLLM's encoder."""

    def __init__(self) -> None:
        self._encoder = MsgpackEncoder()

    def request(self, pixels: torch.Tensor, seed: int) -> Any:
        return request_of(items_of(pixels), seed)

    def encode(self, request: Any) -> Sequence[Frame]:
        frames: Sequence[Frame] = self._encoder.encode(request)
        return frames


class FromFrames(Engine):
    """vLLM's decoder."""

    def __init__(self) -> None:
        self._decoder = MsgpackDecoder(EngineCoreRequest)

    def decode(self, frames: Sequence[zmq.Frame]) -> Any:
        return self._decoder.decode(frames)

    def pixels(self, request: Any) -> list[torch.Tensor]:
        return [feature.data["pixel_values"].data[0] for feature in request.mm_features]
