"""The one set of payloads: what every benchmark here sends, from the size of a text prompt's tensors to 100 images.

Sizes are those of the field: 3 MB is a uint8 image of 1024 x 1024, 9.6 MB a float32 image of 896 x 896 as vision
encoders take it, 482 MB a hundred of those in bfloat16. Bytes come from a seed, so that any process can say what
another must have sent; no two seeds agree at more than chance places.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch

_NOISE_NBYTES: Final = 1 << 24
_STEP: Final = 1_000_003
"""Odd and prime: starts of neighbouring seeds are far apart."""


@dataclass(frozen=True)
class Payload:
    """One request: so many tensors of one shape."""

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    tensors: int = 1
    sliced: bool = False
    """Every other element of the last dimension of a tensor twice as wide: not contiguous."""

    @property
    def tensor_nbytes(self) -> int:
        """Of one tensor."""
        return math.prod(self.shape) * torch_dtype(self.dtype).itemsize

    @property
    def nbytes(self) -> int:
        """Of all."""
        return self.tensor_nbytes * self.tensors

    def request(self, seed: int) -> list[torch.Tensor]:
        """The tensors of this seed, touched."""
        return [self._tensor(seed * self.tensors + index) for index in range(self.tensors)]

    def _tensor(self, seed: int) -> torch.Tensor:
        wide = (*self.shape[:-1], 2 * self.shape[-1]) if self.sliced else self.shape
        raw = _bytes(seed, math.prod(wide) * torch_dtype(self.dtype).itemsize)
        tensor = torch.from_numpy(raw).view(torch_dtype(self.dtype)).view(wide)
        return tensor[..., ::2] if self.sliced else tensor


def torch_dtype(name: str) -> torch.dtype:
    """`torch.<name>`."""
    found: torch.dtype = getattr(torch, name)
    return found


def _bytes(seed: int, nbytes: int) -> "np.ndarray[Any, np.dtype[np.uint8]]":
    noise = _noise()
    start = seed * _STEP % _NOISE_NBYTES
    return np.resize(np.roll(noise, -start), nbytes) if nbytes > _NOISE_NBYTES else _window(noise, start, nbytes)


def _window(
    noise: "np.ndarray[Any, np.dtype[np.uint8]]", start: int, nbytes: int
) -> "np.ndarray[Any, np.dtype[np.uint8]]":
    return np.concatenate((noise[start : start + nbytes], noise[: max(0, start + nbytes - len(noise))]))


_made: "np.ndarray[Any, np.dtype[np.uint8]] | None" = None


def _noise() -> "np.ndarray[Any, np.dtype[np.uint8]]":
    global _made
    if _made is None:
        _made = np.frombuffer(np.random.default_rng(16461).bytes(_NOISE_NBYTES), np.uint8)
    return _made


ALL: Final[Sequence[Payload]] = (
    Payload("64 KB", (128, 128)),
    Payload("1 MB", (512, 512)),
    Payload("3 MB", (1024, 1024, 3), "uint8"),
    Payload("9.6 MB", (3, 896, 896)),
    Payload("9.6 MB sliced", (3, 896, 896), sliced=True),
    Payload("10 x 9.6 MB", (3, 896, 896), tensors=10),
    Payload("64 MB", (4096, 4096)),
    Payload("100 x 64 KB", (128, 128), tensors=100),
    Payload("482 MB", (100, 3, 896, 896), "bfloat16"),
    Payload("100 x 4.8 MB", (3, 896, 896), "bfloat16", tensors=100),
)
QUICK: Final = ("9.6 MB", "10 x 9.6 MB")

BY_NAME: Final = {payload.name: payload for payload in ALL}
