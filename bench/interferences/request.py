"""What a frontend sends its engine here: texts of 1.7 KB, and requests with ten images, 96 MB."""

import random
from typing import Final

import msgspec
import torch

from bench.payloads import BY_NAME

IMAGES: Final = BY_NAME["10 x 9.6 MB"]
POOL: Final = 2
"""Requests with images that are kept ready, so that none is sent twice in a row."""
TOKENS: Final = 400

_chance = random.Random(16461)
_PROMPTS: Final = [[_chance.randrange(128_256) for _ in range(TOKENS)] for _ in range(16)]


class Request(msgspec.Struct):
    """As an engine's: an id, a prompt as tokens, and what was made of its images, if there are any."""

    number: int
    prompt_token_ids: list[int]
    sent_ns: int
    """CLOCK_MONOTONIC just before the call that sends it."""
    pixels: list[torch.Tensor]


def prompt(number: int) -> list[int]:
    """That of the request with this number."""
    return _PROMPTS[number % len(_PROMPTS)]


def images(number: int) -> list[torch.Tensor]:
    """Those of the request with this number, made anew."""
    return IMAGES.request(number % POOL)


def same(some: list[torch.Tensor], others: list[torch.Tensor]) -> bool:
    """Byte for byte, on one thread and without the GIL."""
    return len(some) == len(others) and all(
        torch.equal(one.view(torch.int32), other.view(torch.int32)) for one, other in zip(some, others, strict=True)
    )


TEXT_NBYTES: Final = len(msgspec.msgpack.encode(Request(1000, prompt(0), 1 << 50, [])))
