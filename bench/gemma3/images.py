"""The pixels: images of 896 x 896 as Gemma-3's vision tower takes them, from a seed that both processes know."""

from collections.abc import Iterator
from typing import Final

import torch

from bench.payloads import Payload

IMAGE: Final = Payload("image", (3, 896, 896), "float32")
TOKENS: Final = 260
"""Of the prompt, an image: 256 that are replaced by what the tower makes of it, and two on either side."""
_MOST: Final = 1000


def image(seed: int, number: int) -> torch.Tensor:
    """One image of a request."""
    return IMAGE.request(seed * _MOST + number)[0]


def batch(seed: int, images: int) -> torch.Tensor:
    """All images of a request, as the processor answers them: one tensor."""
    pixels = torch.empty(images, *IMAGE.shape)
    for number in range(images):
        pixels[number] = image(seed, number)
    return pixels


def prompt(images: int) -> list[int]:
    """Some text's tokens, then each image's."""
    return list(range(2, 34)) + [262144] * TOKENS * images


def places(images: int) -> Iterator[tuple[int, int]]:
    """Where each image's tokens begin in the prompt, and how many they are."""
    for number in range(images):
        yield 32 + number * TOKENS, TOKENS


def digest(seed: int, number: int) -> str:
    """What stands for an image's hash: as long as one."""
    return f"{seed * _MOST + number:064x}"
