"""As vLLM 0.8.3 brought a request to its engine, and as the patch in issue 16461 would have it.

0.8.3 had msgspec encode the request. What msgspec does not know went to a hook: a bare tensor became a pickled numpy
array there, and everything else was given to `pickle.dumps` as it stood. An image's `MultiModalKwargs` is such a thing:
a mapping of the model's arguments, which also keeps the items that it was made of. Each item has its tensors once more
(the same objects, which pickle writes once) and their fields, and the field of Gemma-3's pixels lists the slices of
all images of the prompt, whose ends are tensors of one number. pickle has torch save each tensor by itself into a file
in memory, takes that file's bytes and copies them into the pickle, which msgspec copies into the message.

With a tensor torch saves its whole storage. Images that came from the processor as one batch are views of it: each
takes all others with it, and a request of n images carries n times n. The patch, whose numpy arrays know no storage,
ended that too. The published figures grow with n and not with its square, so the way that is compared has images with
storages of their own; `Together` shows what becomes of views.

The patch puts numpy arrays where tensors were, and Python's integers where the slices' ends were; the rest is the same.
Here a pickler does so on its way, which is the least that it can cost. numpy has no bfloat16. Neither had the wire:
pixels were float32 until a worker cast them.

The classes have the shape of that release's, attribute by attribute, as far as pickle and msgspec look at them.
"""

import io
import pickle
from collections import UserDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import torch
import zmq
from msgspec import Struct, msgpack
from vllm.sampling_params import SamplingParams

from bench.gemma3 import images
from bench.gemma3.way import Engine, Frame, Frontend

_TENSOR, _PICKLE = 1, 2
"""Codes of msgpack's extensions."""


@dataclass(frozen=True)
class Flat:
    """The field of an argument of which each item has a slice."""

    slices: Sequence[slice]


@dataclass(frozen=True)
class Batched:
    """The field of an argument of which each item has an element."""


@dataclass(frozen=True)
class Element:
    """An item's part of an argument."""

    modality: str
    key: str
    tensor: torch.Tensor
    field: Flat | Batched


class Item(UserDict[str, Element]):
    """One image."""


class Kwargs(UserDict[str, torch.Tensor]):
    """The model's arguments for one item."""

    def __init__(self, item: Item, pixels: torch.Tensor, crops: torch.Tensor) -> None:
        super().__init__(pixel_values=pixels, num_crops=crops)
        self._items_by_modality = {"image": [item]}


class Request(Struct, array_like=True, omit_defaults=True, gc=False):
    """What the engine is sent."""

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    mm_inputs: list[Kwargs | None] | None
    mm_hashes: list[str] | None
    mm_placeholders: list[dict[str, int]] | None
    sampling_params: SamplingParams
    eos_token_id: int | None
    arrival_time: float
    lora_request: None = None


def inputs(batch: torch.Tensor, own: Callable[[torch.Tensor], torch.Tensor]) -> list[Kwargs | None]:
    """Those of each image of a batch; ``own`` is what becomes of an image's view of it."""
    crops = torch.zeros(len(batch), dtype=torch.int64)
    flat = Flat([slice(*ends) for ends in pairwise([0, *accumulate(crops + 1)])])
    made: list[Kwargs | None] = []
    for its_slice, its_crops in zip(flat.slices, crops, strict=True):
        pixels = own(batch[its_slice])
        item = Item(
            pixel_values=Element("image", "pixel_values", pixels, flat),
            num_crops=Element("image", "num_crops", its_crops, Batched()),
        )
        made.append(Kwargs(item, pixels, its_crops.unsqueeze(0)))
    return made


class Pickled(Frontend):
    """0.8.3."""

    def __init__(self) -> None:
        self._encoder = msgpack.Encoder(enc_hook=self._encoded)

    def request(self, pixels: torch.Tensor, seed: int) -> Request:
        return Request(
            request_id=f"request-{seed}",
            prompt=None,
            prompt_token_ids=images.prompt(len(pixels)),
            mm_inputs=inputs(pixels, self._own),
            mm_hashes=[images.digest(seed, number) for number in range(len(pixels))],
            mm_placeholders=[{"offset": offset, "length": length} for offset, length in images.places(len(pixels))],
            sampling_params=SamplingParams(max_tokens=16),
            eos_token_id=1,
            arrival_time=0.0,
        )

    def encode(self, request: Request) -> list[Frame]:
        return [self._encoder.encode(request)]

    def _own(self, view: torch.Tensor) -> torch.Tensor:
        return view.clone()

    def _encoded(self, unknown: Any) -> msgpack.Ext:
        if isinstance(unknown, torch.Tensor):
            return msgpack.Ext(_TENSOR, pickle.dumps(unknown.numpy()))
        return msgpack.Ext(_PICKLE, self._pickled(unknown))

    def _pickled(self, unknown: Any) -> bytes:
        return pickle.dumps(unknown)


class Together(Pickled):
    """0.8.3, with the images of a request as views of one batch."""

    def _own(self, view: torch.Tensor) -> torch.Tensor:
        return view


class Patched(Pickled):
    """With the patch."""

    def _pickled(self, unknown: Any) -> bytes:
        file = io.BytesIO()
        _ArrayPickler(file).dump(unknown)
        return file.getvalue()


class _ArrayPickler(pickle.Pickler):
    def reducer_override(self, thing: Any) -> Any:
        if not isinstance(thing, torch.Tensor):
            return NotImplemented
        return (_tensor, (thing.numpy(),)) if thing.ndim else (int, (thing.item(),))


def _tensor(array: "np.ndarray[Any, Any]") -> torch.Tensor:
    return torch.from_numpy(array)


class Unpickling(Engine):
    """The engine of all three."""

    def __init__(self) -> None:
        self._decoder = msgpack.Decoder(Request, ext_hook=_decoded)

    def decode(self, frames: Sequence[zmq.Frame]) -> Request:
        return self._decoder.decode(frames[0].buffer)

    def pixels(self, request: Request) -> list[torch.Tensor]:
        return [kwargs["pixel_values"][0] for kwargs in request.mm_inputs or () if kwargs is not None]


def _decoded(code: int, content: memoryview) -> Any:
    made = pickle.loads(content)
    return torch.from_numpy(made) if code == _TENSOR else made
