"""What every example prints: medians of its ways, taken by turns in one run, their ratio, and the machine."""

import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median
from typing import Final

import torch
import zmq

from shmtransport import host

WARM_UPS: Final = 3
"""First times of each way, which are not counted: memory is touched, peers have joined."""


class Clock:
    """Times ways against each other; the first one timed is the project's."""

    def __init__(self) -> None:
        self._seconds: dict[str, list[float]] = {}

    @contextmanager
    def timed(self, way: str) -> Iterator[None]:
        """Counts the time until the end of the block for ``way``."""
        began = time.perf_counter()
        yield
        self._seconds.setdefault(way, []).append(time.perf_counter() - began)

    def report(self, what: str) -> str:
        """Median of each way, and how many times as long the others take."""
        medians = {way: median(taken[WARM_UPS:]) for way, taken in self._seconds.items()}
        (own, own_s), *others = medians.items()
        turns = min(map(len, self._seconds.values())) - WARM_UPS
        lines = [f"{what}, median of {turns} by turns", f"  {own}: {own_s * 1e3:.2f} ms"]
        lines += [f"  {way}: {taken * 1e3:.2f} ms, {taken / own_s:.1f} x" for way, taken in others]
        return "\n".join([*lines, f"  {machine()}"])


def machine() -> str:
    """Where the figures come from, in words; no name of the host."""
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, ZMQ {zmq.zmq_version()}"
    return f"{host.cpu_model()}, {host.cpus()} CPUs, Linux {platform.release()}, {versions}"


def checksum(tensor: torch.Tensor) -> int:
    """Of all its bytes, a multiple of 8: a sum that wraps around, so that no order of adding changes it."""
    return int(tensor.contiguous().view(-1).view(torch.int64).sum())
