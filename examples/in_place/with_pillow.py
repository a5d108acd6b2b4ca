"""Photographs through Pillow: the last step of the preprocessing writes into the ring, no batch is put."""

import numpy as np
from PIL import Image

from examples.in_place.measuring import BATCH, SIDE, measure

MEAN, DEVIATION = np.float32(127.5), np.float32(127.5)

Array = np.ndarray[tuple[int, ...], np.dtype[np.float32]]


def preprocess(image: Image.Image, out: Array | None = None) -> Array:
    """Normalised pixels, height x width x 3; in ``out`` where one is given."""
    resized = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BILINEAR))
    centred: Array = np.subtract(resized, MEAN, out=out)
    centred /= DEVIATION
    return centred


if __name__ == "__main__":
    measure("Pillow", preprocess, np.stack, lambda ring: ring.empty((BATCH, SIDE, SIDE, 3), np.float32))
