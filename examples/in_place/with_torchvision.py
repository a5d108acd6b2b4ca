"""Photographs through torchvision: pixels become floats in the ring, and are normalised there. Needs torchvision."""

import torch
from PIL import Image
from torchvision.transforms.v2 import functional as transforms

from examples.in_place.measuring import BATCH, SIDE, measure

MEAN, DEVIATION = [127.5] * 3, [127.5] * 3


def preprocess(image: Image.Image, out: torch.Tensor | None = None) -> torch.Tensor:
    """Normalised pixels, 3 x height x width; in ``out`` where one is given."""
    resized = transforms.resize(transforms.pil_to_tensor(image), [SIDE, SIDE], antialias=True)
    pixels = resized.float() if out is None else out.copy_(resized)
    normalised: torch.Tensor = transforms.normalize(pixels, MEAN, DEVIATION, inplace=True)
    return normalised


if __name__ == "__main__":
    measure("torchvision", preprocess, torch.stack, lambda ring: ring.empty((BATCH, 3, SIDE, SIDE)))
