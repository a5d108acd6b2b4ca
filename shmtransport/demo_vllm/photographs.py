"""Photographs as a client of vLLM has them; which five, `shmtransport.demo.photographs` says."""

from functools import cache

import torch
from PIL import Image

from shmtransport.demo.photographs import decode

_SHIFTS = 64
"""Pixels cut off at most, at the left and at the top: less than a quarter of the smallest photograph."""


@cache
def _decoded() -> list[torch.Tensor]:
    return decode()


def image(number: int) -> Image.Image:
    """Photograph ``number`` of a row in which the first 20,480 all differ: vLLM has seen none of them before."""
    turn, which = divmod(number, len(_decoded()))
    top, left = turn % _SHIFTS, turn // _SHIFTS % _SHIFTS
    return Image.fromarray(_decoded()[which][:, top:, left:].permute(1, 2, 0).contiguous().numpy())
