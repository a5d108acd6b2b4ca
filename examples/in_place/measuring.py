"""A preprocessing that writes into the ring against the same whose batch is put, by turns."""

from collections.abc import Callable, Iterable
from typing import Any, Final

import numpy as np
import torch
from PIL import Image

from examples.measuring import WARM_UPS, Clock
from shmtransport import Reader, Ring

BATCH: Final = 8
SIDE: Final = 448
TURNS: Final = 15


def photographs() -> list[Image.Image]:
    """Noise, 640 x 480."""
    noise = np.random.default_rng(7)
    return [Image.fromarray(noise.integers(0, 256, (480, 640, 3), np.uint8)) for _ in range(BATCH)]


def measure(
    with_what: str,
    preprocess: Callable[[Image.Image, Any], Any],
    stack: Callable[[list[Any]], Any],
    empty: Callable[[Ring], Iterable[Any]],
) -> None:
    """``preprocess`` an image into memory that is given, or new memory for None; ``empty`` is a batch in a ring."""
    images, clock = photographs(), Clock()
    with Ring.create("128MiB", segment="128MiB", name="frontend") as ring, Reader.join(ring.id) as reader:
        for _ in range(WARM_UPS + TURNS):
            with clock.timed("shmtransport, in place"):
                batch: Any = empty(ring)
                for image, out in zip(images, batch, strict=True):
                    preprocess(image, out)
                in_place = reader.open(ring.share(batch, reader))
            with clock.timed("shmtransport, a batch that is put"):
                put = reader.open(ring.share(stack([preprocess(image, None) for image in images]), reader))
            if not torch.equal(torch.as_tensor(in_place), torch.as_tensor(put)):
                raise SystemExit("in place other pixels were made")
            del batch, in_place, put
    print(clock.report(f"{BATCH} images to {SIDE} x {SIDE} with {with_what}, until a reader has the batch"))
