"""Views that were cut from one tensor, opened one by one, as one tensor again: a batch without a copy."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from shmtransport.attachment import holder_of


class _Range:
    """Memory for numpy (its array interface), and what keeps that memory alive."""

    def __init__(self, address: int, nbytes: int, kept: object) -> None:
        self.__array_interface__ = {"version": 3, "typestr": "|u1", "shape": (nbytes,), "data": (address, False)}
        self.kept = kept


def rejoined(parts: Sequence[object]) -> torch.Tensor | None:
    """What ``torch.cat(parts)`` would be, over their own memory: no copy, and no lease of its own.

    For two and more tensors of one dtype, contiguous, equal but for their first dimension, that lie one behind the
    other in one block of a ring: what a writer put as one tensor and shared as slices. None for anything else.
    The parts live as long as any tensor or view over the answer. Mapped read-only, it is as read-only as they are.

    Threads: any. Microseconds a part.
    """
    tensors = [part for part in parts if isinstance(part, torch.Tensor) and part.ndim and part.is_contiguous()]
    if len(tensors) < 2 or len(tensors) != len(parts):
        return None
    first = tensors[0]
    kind = (first.dtype, first.device, first.shape[1:])
    if first.device.type != "cpu" or any((part.dtype, part.device, part.shape[1:]) != kind for part in tensors):
        return None
    if any(before.data_ptr() + before.nbytes != after.data_ptr() for before, after in pairwise(tensors)):
        return None
    nbytes = sum(part.nbytes for part in tensors)
    if holder_of(first.data_ptr(), nbytes) is None:
        return None
    exporter: Any = _Range(first.data_ptr(), nbytes, tensors)
    flat = torch.from_numpy(np.asarray(exporter))
    return flat.view(first.dtype).view(sum(len(part) for part in tensors), *kind[2])
