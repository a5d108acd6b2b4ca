"""A ``collate_fn`` whose batches reach the trainer through rings: each worker stacks its batches straight into its own.

    DataLoader(dataset, batch_size=32, num_workers=2, collate_fn=RingCollate())

A batch travels through the loader's own queue, as a handle that becomes a tensor where it is unpickled. The trainer
joins a worker's ring with the first batch of that worker, which goes the ordinary way.
"""

from collections.abc import Sequence
from typing import Any

import torch

from shmtransport import Handle, Reader, Ring

_readers: dict[str, Reader] = {}
"""In the trainer: the rings of its workers."""


class RingCollate:
    """Stacks samples, which are tuples of tensors of one shape at each place; answers a list of batches.

    ``capacity`` is that of each worker's ring: choose the bytes of ``prefetch_factor`` + 2 batches, plus a fifth.
    Without room a batch goes the ordinary way. The trainer's batches are read-only, and a write into one faults:
    `clone()` first. Nothing is left when a worker exits or is killed; batches that have arrived stay valid.
    """

    def __init__(self, capacity: int | str = "256MiB") -> None:
        self._capacity = capacity
        self._ring: Ring | None = None

    def __call__(self, samples: Sequence[Sequence[torch.Tensor]]) -> list[Any]:
        """In a worker."""
        if self._ring is None:
            self._ring = Ring.create(self._capacity, name="loader worker")
        trainers = self._ring.peers()
        return [self._stacked(self._ring, column, trainers) for column in zip(*samples, strict=True)]

    def _stacked(self, ring: Ring, column: Sequence[torch.Tensor], trainers: list[str]) -> Any:
        if not trainers:
            return _First(ring.id, torch.stack(list(column)))
        out = ring.empty((len(column), *column[0].shape), column[0].dtype)
        handle = ring.share(torch.stack(list(column), out=out), trainers)
        return _Sent(ring.id, bytes(handle)) if isinstance(handle, Handle) else out

    def __getstate__(self) -> dict[str, object]:
        return {"_capacity": self._capacity, "_ring": None}


class _First:
    """A batch that goes the ordinary way, and what is to be joined."""

    def __init__(self, ring_id: str, batch: torch.Tensor) -> None:
        self.sent = ring_id, batch

    def __reduce__(self) -> tuple[Any, ...]:
        return _join, self.sent


class _Sent:
    """A batch in the ring."""

    def __init__(self, ring_id: str, handle: bytes) -> None:
        self.sent = ring_id, handle

    def __reduce__(self) -> tuple[Any, ...]:
        return _open, self.sent


def _join(ring_id: str, batch: torch.Tensor) -> torch.Tensor:
    """In the trainer; leaves the rings of workers that are gone."""
    if ring_id not in _readers:
        for gone in [known for known, reader in _readers.items() if not reader.statistics().writer.alive]:
            _readers.pop(gone).close()
        _readers[ring_id] = Reader.join(ring_id, name="trainer")
    return batch


def _open(ring_id: str, handle: bytes) -> torch.Tensor:
    return torch.as_tensor(_readers[ring_id].open(handle))
