"""A `DataLoader` with `RingCollate` against one with torch's own collation, which shares each batch by file."""

import torch
from torch.utils.data import DataLoader, Dataset

from examples.dataloader.ring_collate import RingCollate
from examples.measuring import WARM_UPS, Clock, checksum

BATCH = 16
IMAGES = 96
TURNS = 10


class Images(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Sample n: pixels, and n."""

    def __init__(self) -> None:
        self.pixels = torch.rand(IMAGES, 3, 448, 448)

    def __len__(self) -> int:
        return IMAGES

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.pixels[index], torch.tensor(index)


def main() -> None:
    """Epochs of each loader by turns, verified batch by batch."""
    images, clock = Images(), Clock()
    expected = [checksum(batch) for batch in torch.split(images.pixels, BATCH)]
    ways = {"shmtransport": RingCollate("512MiB"), "torch's own": None}
    loaders = {
        way: DataLoader(
            images, BATCH, num_workers=2, collate_fn=collate, persistent_workers=True, multiprocessing_context="spawn"
        )
        for way, collate in ways.items()
    }
    for _ in range(WARM_UPS + TURNS):
        for way, loader in loaders.items():
            with clock.timed(way):
                totals = [checksum(pixels) for pixels, _ in loader]
            if totals != expected:
                raise SystemExit(f"{way}: other batches arrived than were made")
    nbytes = images.pixels.nbytes * BATCH // IMAGES
    print(clock.report(f"an epoch of {IMAGES // BATCH} batches of {nbytes / 1e6:.1f} MB, until all were read"))


if __name__ == "__main__":
    main()
