"""What the benchmark of issue 16461 compares with and measures by, without vLLM."""

import pytest
import torch

from bench.gemma3 import images
from bench.gemma3.memory import Growth
from bench.peers.ends import WrongBytesError


def test_images_of_requests_differ() -> None:
    starts = {images.image(seed, number).data_ptr() for seed in range(6) for number in range(100)}
    assert len(starts) == 600


def test_a_filled_batch_is_what_is_compared_with() -> None:
    batch = torch.empty(2, *images.SHAPE)
    images.fill(batch, 3)
    images.check(list(batch), 3, 2)


def test_one_changed_byte_is_seen() -> None:
    batch = torch.empty(2, *images.SHAPE)
    images.fill(batch, 3)
    batch.view(torch.uint8)[1, 2, 895, -1] ^= 1
    with pytest.raises(WrongBytesError, match="image 1 of 2 came with other bytes"):
        images.check(list(batch), 3, 2)


def test_a_missing_image_is_seen() -> None:
    with pytest.raises(WrongBytesError, match="1 images came, 2 were sent"):
        images.check([images.image(0, 0)], 0, 2)


def test_memory_that_was_needed_for_a_while_is_seen_after_it_is_given_back() -> None:
    growth = Growth()
    torch.ones(64 << 20)  # 256 MiB, which no heap keeps
    assert 200e6 < growth.nbytes() < 400e6
