"""Photographs through Pillow: the last step of the preprocessing writes into the ring, no batch is put."""

import numpy as np
import torch
from PIL import Image

from examples.measuring import WARM_UPS, Clock
from shmtransport import Reader, Ring

BATCH = 8
SIDE = 448
MEAN, DEVIATION = np.float32(127.5), np.float32(127.5)
TURNS = 15

Array = np.ndarray[tuple[int, ...], np.dtype[np.float32]]


def preprocess(image: Image.Image, out: Array | None = None) -> Array:
    """Normalised pixels, height x width x 3; in ``out`` where one is given."""
    resized = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BILINEAR))
    centred: Array = np.subtract(resized, MEAN, out=out)
    centred /= DEVIATION
    return centred


def main() -> None:
    """Measures both until the batch is shared, and verifies what a reader opens."""
    noise = np.random.default_rng(7)
    images = [Image.fromarray(noise.integers(0, 256, (480, 640, 3), np.uint8)) for _ in range(BATCH)]
    clock = Clock()
    with Ring.create("128MiB", segment="128MiB", name="frontend") as ring, Reader.join(ring.id) as reader:
        for _ in range(WARM_UPS + TURNS):
            with clock.timed("shmtransport, in place"):
                batch = ring.empty((BATCH, SIDE, SIDE, 3), np.float32)
                for image, out in zip(images, batch, strict=True):
                    preprocess(image, out)
                in_place = reader.open(ring.share(batch, reader))
            with clock.timed("shmtransport, a batch that is put"):
                put = reader.open(ring.share(np.stack([preprocess(image) for image in images]), reader))
            if not torch.equal(torch.as_tensor(in_place), torch.as_tensor(put)):
                raise SystemExit("in place other pixels were made")
            del batch, in_place, put
    print(clock.report(f"{BATCH} images to {SIDE} x {SIDE} with Pillow, until a reader has the batch"))


if __name__ == "__main__":
    main()
