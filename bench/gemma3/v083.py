"""As vLLM 0.8.3 brought a request to its engine, and as the patch in issue 16461 would have it.

0.8.3 had msgspec encode the request. What msgspec does not know went to a hook: a bare tensor became a pickled numpy
array there, and everything else was given to `pickle.dumps` as it stood. An image's `MultiModalKwargs` is such a thing:
a mapping of the model's arguments, which also keeps the items that it was made of. Each item has its tensors once more
(the same objects, which pickle writes once) and their fields, and the field of Gemma-3's pixels lists the slices of
all images of the prompt, whose ends are tensors of one number. pickle has torch save each tensor by itself into a file
in memory, takes that file's bytes and copies them into the pickle, which msgspec copies into the message.

With a tensor torch saves its whole storage. Images that the processor made at once are views of one batch: each takes
all others with it, and a request of n images carries n times n; `Together` does that. The published figures grow with
n and not with its square, so `Pickled` has images with storages of their own. The patch, whose arrays know no storage,
ended that too.

The patch puts numpy arrays where tensors were, and Python's integers where the slices' ends were; the rest is the same.
Here it keeps one array where one tensor is held twice, which is the least that it can cost. numpy has no bfloat16, and
none was needed: pixels were float32 until a worker cast them.

The classes have the shape of that release's, attribute by attribute, as far as pickle and msgspec look at them.
"""

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
    tensor: Any
    field: Flat | Batched


class Item(UserDict[str, Element]):
    """One image."""


class Kwargs(UserDict[str, Any]):
    """The model's arguments for one item."""

    def __init__(self, item: Item) -> None:
        super().__init__(
            {
                key: element.tensor if isinstance(element.field, Flat) else element.tensor[None]
                for key, element in item.items()
            }
        )
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


def inputs(batch: torch.Tensor, own: Callable[[int, torch.Tensor], torch.Tensor]) -> list[Kwargs | None]:
    """Those of each image of a batch; ``own`` is what becomes of the view that an image is of it."""
    crops = torch.zeros(len(batch), dtype=torch.int64)
    flat = Flat([slice(*ends) for ends in pairwise([0, *accumulate(crops + 1)])])
    embedded = torch.ones(images.TOKENS, dtype=torch.bool)
    made: list[Kwargs | None] = []
    for number, (its_slice, its_crops) in enumerate(zip(flat.slices, crops, strict=True)):
        parts: dict[str, tuple[torch.Tensor, Flat | Batched]] = {
            "pixel_values": (own(number, batch[its_slice]), flat),
            "num_crops": (its_crops, Batched()),
            "embed_is_patch": (embedded.clone(), Batched()),
        }
        made.append(Kwargs(Item({key: Element("image", key, *part) for key, part in parts.items()})))
    return made


class Pickled(Frontend):
    """0.8.3."""

    def __init__(self) -> None:
        self._encoder = msgpack.Encoder(enc_hook=self._encoded)
        self._images: dict[int, torch.Tensor] = {}

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

    def _own(self, number: int, view: torch.Tensor) -> torch.Tensor:
        """In memory that was there before: a clone's would be new, and take longer than all else."""
        return self._images.setdefault(number, torch.empty_like(view)).copy_(view)

    def _encoded(self, unknown: Any) -> msgpack.Ext:
        if isinstance(unknown, torch.Tensor):
            return msgpack.Ext(_TENSOR, pickle.dumps(unknown.numpy()))
        return msgpack.Ext(_PICKLE, self._pickled(unknown))

    def _pickled(self, unknown: Any) -> bytes:
        return pickle.dumps(unknown)


class Together(Pickled):
    """0.8.3, with the images of a request as views of one batch."""

    def request(self, pixels: torch.Tensor, seed: int) -> Request:
        return super().request(pixels.clone(), seed)  # a batch of this request alone

    def _own(self, number: int, view: torch.Tensor) -> torch.Tensor:  # noqa: ARG002 - as above
        return view


class Patched(Pickled):
    """With the patch."""

    def _pickled(self, unknown: Any) -> bytes:
        return pickle.dumps(changed(unknown, _array, _numbers))


def changed(kwargs: Kwargs, tensor: Callable[[Any], Any], field: Callable[[Flat | Batched], Flat | Batched]) -> Kwargs:
    """The same arguments with other tensors and fields."""
    (item,) = kwargs._items_by_modality["image"]
    elements = {
        key: Element(element.modality, key, tensor(element.tensor), field(element.field))
        for key, element in item.items()
    }
    return Kwargs(Item(elements))


def _array(tensor: torch.Tensor) -> "np.ndarray[Any, Any]":
    return tensor.numpy()


def _numbers(field: Flat | Batched) -> Flat | Batched:
    if isinstance(field, Batched):
        return field
    return Flat([slice(int(its.start), int(its.stop)) for its in field.slices])


class Unpickling(Engine):
    """The engine of 0.8.3."""

    def __init__(self) -> None:
        self._decoder = msgpack.Decoder(Request, ext_hook=self._decoded)

    def decode(self, frames: Sequence[zmq.Frame]) -> Request:
        return self._decoder.decode(frames[0].buffer)

    def pixels(self, request: Request) -> list[torch.Tensor]:
        return [kwargs["pixel_values"][0] for kwargs in request.mm_inputs or () if kwargs is not None]

    def _decoded(self, code: int, content: memoryview) -> Any:
        made = pickle.loads(content)
        return torch.from_numpy(made) if code == _TENSOR else self._usable(made)

    def _usable(self, made: Any) -> Any:
        return made


class UnpicklingArrays(Unpickling):
    """That of the patch."""

    def _usable(self, made: Any) -> Any:
        return changed(made, torch.from_numpy, lambda field: field)
