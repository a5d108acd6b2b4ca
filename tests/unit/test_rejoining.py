"""Slices of one tensor, opened one by one, as one tensor again."""

import gc

import numpy as np
import pytest
import torch

from shmtransport import Ring
from shmtransport.rejoining import rejoined
from tests.unit.peers import blocks


def opened_slices(ring: Ring, whole: torch.Tensor, sizes: list[int]) -> list[torch.Tensor]:
    """Each by a handle and a lease of its own; the tensor that they were cut from is gone."""
    parts = torch.split(ring.put(whole), sizes)
    return [torch.as_tensor(ring.open(ring.share(part, ring))) for part in parts]


@pytest.mark.parametrize("sizes", [[1, 1], [1, 3, 2, 4], [1] * 50])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8])
def test_it_is_their_concatenation_over_the_same_memory(ring: Ring, sizes: list[int], dtype: torch.dtype) -> None:
    whole = torch.arange(sum(sizes) * 600).view(-1, 3, 200).to(dtype)
    parts = opened_slices(ring, whole, sizes)
    made = rejoined(parts)
    assert made is not None
    assert (made.dtype, made.shape) == (whole.dtype, whole.shape)
    assert torch.equal(made, whole)
    assert made.data_ptr() == parts[0].data_ptr()


def test_the_parts_live_as_long_as_a_view_of_it(ring: Ring) -> None:
    parts = opened_slices(ring, torch.arange(6000).view(3, -1), [1, 1, 1])
    made = rejoined(parts)
    assert made is not None
    parts.clear()
    view = made[2]
    del made
    gc.collect()
    assert blocks(ring) == 1
    assert torch.equal(view, torch.arange(4000, 6000))
    del view
    assert blocks(ring) == 0


def test_one_that_is_rejoined_is_sent_on_without_a_copy(ring: Ring) -> None:
    made = rejoined(opened_slices(ring, torch.arange(6000).view(3, -1), [1, 1, 1]))
    assert made is not None
    assert ring.holds(made)
    assert ring.put(made) is made


def test_what_does_not_lie_in_one_block_one_behind_the_other_is_left_alone(ring: Ring) -> None:
    parts = opened_slices(ring, torch.arange(60000).view(30, -1), [10, 10, 10])
    stranger = ring.put(torch.arange(20000).view(10, -1))
    neighbour = ring.put(torch.arange(20000).view(10, -1))
    assert stranger.data_ptr() < neighbour.data_ptr()
    for wrong in (
        [],
        parts[:1],
        parts[::-1],
        parts[::2],
        [*parts, stranger],
        [stranger, neighbour],
        [part[0] for part in parts],  # smaller: a gap between them
        [*parts[:2], parts[2].view(5, -1)],
        [*parts[:2], parts[2].view(torch.float64)],
        [part.T for part in parts],
        [*parts[:2], parts[2].numpy()],
        [*parts[:2], [parts[2]]],
        [part.view(-1)[0] for part in parts],  # no dimension
    ):
        assert rejoined(wrong) is None


def test_ordinary_memory_is_left_alone() -> None:
    assert rejoined(torch.split(torch.arange(6000).view(3, -1), 1)) is None
    assert rejoined([torch.from_numpy(row) for row in np.arange(6000).reshape(3, -1)]) is None
