"""Pixel tensors of real photographs, preprocessed as a vision-language processor does.

The five photographs are files of scikit-image's wheel; nothing is downloaded. Size and normalisation are
those of the SigLIP encoder in Gemma 3 (google/gemma-3-12b-it, preprocessor_config.json): 896 x 896 pixels,
rescaled to 0…1, mean and standard deviation 0.5.
"""

from collections.abc import Iterator
from itertools import count, islice

import torch
from torch.nn.functional import interpolate

PHOTOGRAPHS = ("astronaut", "coffee", "chelsea", "rocket", "hubble_deep_field")
SIDE = 896
PATCH_SIDE = 14
PATCHES = (SIDE // PATCH_SIDE) ** 2
MEAN = STD = 0.5
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def image_nbytes(dtype: str) -> int:
    """Bytes of one pixel tensor [3, 896, 896]."""
    return 3 * SIDE * SIDE * DTYPES[dtype].itemsize


def pixel_tensors(number: int) -> list[torch.Tensor]:
    """``number`` float32 tensors [3, 896, 896], each with memory of its own, no two of the same pixels."""
    return [preprocess(photograph) for photograph in islice(_variations(), number)]


def preprocess(photograph: torch.Tensor) -> torch.Tensor:
    """Bytes [3, height, width] to normalised float32 [3, 896, 896]."""
    resized = interpolate(photograph[None].float(), (SIDE, SIDE), mode="bicubic", antialias=True)[0]
    rescaled = resized.clamp(0, 255) / 255
    return (rescaled - MEAN) / STD


def decode() -> list[torch.Tensor]:
    """The photographs as they are: bytes [3, height, width]."""
    from skimage import data  # the slowest import here; the engine does without

    return [torch.from_numpy(getattr(data, name)()).permute(2, 0, 1) for name in PHOTOGRAPHS]


def _variations() -> Iterator[torch.Tensor]:
    """The photographs over and over, each time cropped closer, at another corner, and every second time
    mirrored."""
    photographs = decode()
    for turn in count():
        kept = 1 / (1 + turn / 20)
        for photograph in photographs:
            height, width = (int(side * kept) for side in photograph.shape[1:])
            top = (photograph.shape[1] - height) * (turn // 2 % 2)
            left = (photograph.shape[2] - width) * (turn // 4 % 2)
            cropped = photograph[:, top : top + height, left : left + width]
            yield cropped.flip(2) if turn % 2 else cropped
