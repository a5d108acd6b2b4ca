"""The pixels: images of 896 x 896 as Gemma-3's vision tower takes them, from a seed that both processes know."""

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import torch

from bench.peers.ends import WrongBytesError

SHAPE: Final = (3, 896, 896)
NBYTES: Final = 3 * 896 * 896 * 4
"""Of an image, in float32."""
TOKENS: Final = 260
"""Of the prompt, an image: 256 that are replaced by what the tower makes of it, and two on either side."""
_MOST: Final = 1000
_STARTS: Final = 1 << 24
_STEP: Final = 1_000_004
_NOISE: Final = torch.from_numpy(
    np.frombuffer(bytearray(np.random.default_rng(16461).bytes(_STARTS + NBYTES)), np.float32)
)


def image(seed: int, number: int) -> torch.Tensor:
    """One image of a request: a view of noise, not to be written to."""
    start = (seed * _MOST + number) * _STEP % _STARTS // 4
    return _NOISE[start : start + NBYTES // 4].view(SHAPE)


def fill(batch: torch.Tensor, seed: int) -> None:
    """All images of a request, as the processor answers them: one tensor."""
    for number in range(len(batch)):
        batch[number] = image(seed, number)


def check(pixels: Sequence[torch.Tensor], seed: int, count: int) -> None:
    """What came for a request of so many images, byte for byte. Raises `WrongBytesError`."""
    if len(pixels) != count:
        raise WrongBytesError(f"request {seed}: {len(pixels)} images came, {count} were sent")
    for number, got in enumerate(pixels):
        sent = image(seed, number)
        if (got.shape, got.dtype) != (sent.shape, sent.dtype) or not torch.equal(_words(got), _words(sent)):
            raise WrongBytesError(f"request {seed}: image {number} of {count} came with other bytes")


def _words(pixels: torch.Tensor) -> torch.Tensor:
    """Pixels made of noise may be no numbers, which equal nothing."""
    return pixels.reshape(-1).view(torch.int32)


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
