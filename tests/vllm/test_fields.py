"""Fields without slices, in vLLM's own classes: encoded, decoded and merged as with them."""

from typing import Any

import pytest
import torch
from vllm.multimodal.inputs import (
    MultiModalFieldConfig,
    MultiModalFlatField,
    MultiModalKwargsItem,
    MultiModalKwargsItems,
)
from vllm.v1.serial_utils import MsgpackDecoder, MsgpackEncoder

from shmtransport.adapters.vllm.fields import forget_slices

SIZES = [1, 3, 2, 5]


def items(sizes: list[int], dim: int, *, forget: bool) -> list[Any]:
    """A batch cut into items of different sizes, and one more field that has no slices."""
    batch = torch.arange(4 * sum(sizes)).view((-1, 4) if dim == 0 else (4, -1))
    config = {
        "pixel_values": MultiModalFieldConfig.flat_from_sizes("image", torch.tensor(sizes), dim, keep_on_cpu=True),
        "sizes": MultiModalFieldConfig.batched("image"),
    }
    made = MultiModalKwargsItems.from_hf_inputs({"pixel_values": batch, "sizes": torch.tensor(sizes)}, config)["image"]
    if forget:
        forget_slices(element for item in made for element in item.values())
    return list(made)


def decoded(made: list[Any]) -> list[Any]:
    encoder, decoder = MsgpackEncoder(), MsgpackDecoder(MultiModalKwargsItem)
    return [decoder.decode([bytearray(frame) for frame in encoder.encode(item)]) for item in made]


@pytest.mark.parametrize("dim", [0, 1])
def test_what_an_engine_merges_is_the_same(dim: int) -> None:
    (merged, expected) = (
        {key: made[0][key].field.reduce_data([item[key] for item in made]) for key in made[0]}
        for made in (decoded(items(SIZES, dim, forget=True)), items(SIZES, dim, forget=False))
    )
    assert merged.keys() == expected.keys()
    assert all(torch.equal(merged[key], expected[key]) for key in expected)


@pytest.mark.parametrize("dim", [0, 1])
def test_only_the_slices_are_forgotten_and_the_field_stays_one(dim: int) -> None:
    made = items(SIZES, dim, forget=True)
    fields = {id(item["pixel_values"].field): item["pixel_values"].field for item in made}
    assert list(fields.values()) == [MultiModalFlatField(slices=(), dim=dim, keep_on_cpu=True)]
    before = items(SIZES, dim, forget=False)
    assert [item["sizes"].field for item in made] == [item["sizes"].field for item in before]


def test_an_item_of_many_is_as_long_in_a_message_as_one_alone() -> None:
    def nbytes(number: int, *, forget: bool) -> int:
        first = items([1] * number, 0, forget=forget)[0]
        return sum(len(frame) for frame in MsgpackEncoder().encode(first))

    assert nbytes(1, forget=True) == nbytes(100, forget=True)
    assert nbytes(1, forget=False) < nbytes(100, forget=False)  # or this file and the module are not needed any more
