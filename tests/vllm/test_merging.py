"""Items merged in vLLM's own classes, as a worker does it: the frontend's batch again, without a copy."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from vllm.multimodal.inputs import MultiModalFieldConfig, MultiModalKwargsItems

from shmtransport import Ring
from shmtransport.adapters.vllm import fields, merging
from shmtransport.adapters.vllm.seams import Patches


@pytest.fixture(autouse=True)
def patches() -> Iterator[Patches]:
    made = Patches([merging.module()])
    made.apply()
    yield made
    made.undo()


@pytest.fixture
def ring() -> Iterator[Ring]:
    with Ring.create(capacity="4MiB") as ring:
        yield ring


BATCH = torch.arange(11 * 3 * 400, dtype=torch.float32).view(11, 3, 400)
CONFIGS = {
    "flat": MultiModalFieldConfig.flat_from_sizes("image", torch.tensor([1, 3, 2, 5])),
    "flat, other dimension": MultiModalFieldConfig.flat_from_sizes("image", torch.tensor([1, 2]), dim=1),
    "stacked": MultiModalFieldConfig.batched("image"),
}


def items(config: str, ring: Ring | None) -> list[Any]:
    """A batch cut into items; with a ring each as a worker has opened it."""
    batch = BATCH if ring is None else ring.put(BATCH)
    made = MultiModalKwargsItems.from_hf_inputs({"pixel_values": batch}, {"pixel_values": CONFIGS[config]})["image"]
    if ring is not None:
        for item in made:
            item["pixel_values"].data = ring.open(ring.share(item["pixel_values"].data, ring))
    return list(made)


def merged(made: list[Any]) -> torch.Tensor:
    elements = [item["pixel_values"] for item in made]
    result = elements[0].field.reduce_data(elements)
    assert isinstance(result, torch.Tensor)
    return result


@pytest.mark.parametrize("config", CONFIGS)
def test_the_batch_is_what_vllm_would_make(config: str, ring: Ring) -> None:
    ours = merged(items(config, ring))
    assert torch.equal(ours, BATCH)
    assert torch.equal(ours, merged(items(config, None)))
    assert ring.holds(ours) == (config != "flat, other dimension")


@pytest.mark.parametrize("config", CONFIGS)
def test_other_batches_are_merged_by_vllm(config: str, ring: Ring, patches: Patches) -> None:
    made = items(config, ring)
    chosen = [made[:1], made[1:], made[::-1], made[::2]]
    ours = [merged(each) for each in chosen]
    patches.undo()
    theirs = [merged(each) for each in chosen]
    assert all(torch.equal(our, their) for our, their in zip(ours, theirs, strict=True))
    assert not ring.holds(ours[2])


def test_the_seams_are_there(patches: Patches) -> None:
    kinds = [type(items(config, None)[0]["pixel_values"].field) for config in ("flat", "stacked")]
    assert all(hasattr(kind._reduce_data, "__wrapped__") for kind in kinds)
    made = items("flat", None)
    fields.forget_slices(element for item in made for element in item.values())
    assert all(item["pixel_values"].field.slices == () for item in made)  # what merging reads is seen through the wrap
