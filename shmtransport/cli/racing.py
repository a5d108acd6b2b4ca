"""What `shmtransport bench` measures: random tensors to another process by each of the demo's ways, by turns."""

import time
from collections.abc import Callable, Iterator
from itertools import cycle
from statistics import median
from typing import Final, NamedTuple, Self

import msgspec
import torch

from shmtransport import segment
from shmtransport.demo.engine import ONLY_CHECK
from shmtransport.demo.frontend import connected, exchange, left_nbytes
from shmtransport.demo.messages import Request, checksum
from shmtransport.demo.report import Machine, Sample
from shmtransport.demo.room import Room
from shmtransport.demo.settings import CONTROL_NBYTES, COPIES, PROCESSES_NBYTES
from shmtransport.demo.transports import WAYS, Transport

WARM_UP: Final = 2
LEAST_TURNS: Final = 3
"""Behind a median, however long that takes."""


class Payload(NamedTuple):
    """What one request carries: float32 tensors of one size."""

    name: str
    tensors: int
    tensor_nbytes: int

    @property
    def nbytes(self) -> int:
        return self.tensors * self.tensor_nbytes


PAYLOADS: Final = (
    Payload("64 KB", 1, 1 << 16),
    Payload("1 MB", 1, 1 << 20),
    Payload("9.6 MB", 1, 4 * 3 * 896 * 896),
    Payload("10 x 9.6 MB", 10, 4 * 3 * 896 * 896),
)
"""A crop, a small image, an image as Gemma 3 has it, ten of them."""


class Row(msgspec.Struct, frozen=True):
    """One payload by one way."""

    transport: str
    payload: str
    payload_nbytes: int
    wire_nbytes: int
    """What went through the socket for a request, at most."""
    seconds: float
    """Median, from tensors in hand to tensors that the other process can compute on."""
    turns: int
    ratio_to_shmtransport: float
    """How many times as long it takes."""


class Report(msgspec.Struct, frozen=True):
    """A whole run."""

    verified: bool
    """Every byte arrived as it was sent, each time."""
    leaked_nbytes: int
    left_out: list[str]
    """Payloads for which this host has too little memory."""
    rows: list[Row]
    machine: Machine

    @property
    def ok(self) -> bool:
        return self.verified and not self.leaked_nbytes

    @classmethod
    def of(cls, samples: dict[Payload, dict[str, list[Sample]]], left_out: list[str], leaked_nbytes: int) -> Self:
        """Rows in the order of the payloads and ways."""
        rows, complete = [], True
        for payload, by_way in samples.items():
            complete &= all(sample.images_verified == payload.tensors for taken in by_way.values() for sample in taken)
            seconds = {way: median(sample.seconds for sample in taken[WARM_UP:]) for way, taken in by_way.items()}
            for way, taken in by_way.items():
                rows.append(
                    Row(
                        transport=way,
                        payload=payload.name,
                        payload_nbytes=payload.nbytes,
                        wire_nbytes=max(sample.wire_nbytes for sample in taken),
                        seconds=seconds[way],
                        turns=len(taken) - WARM_UP,
                        ratio_to_shmtransport=seconds[way] / seconds[WAYS[0].name],
                    )
                )
        return cls(complete, leaked_nbytes, left_out, rows, Machine.here())


def race(seconds: float, watch: Callable[[str], None]) -> Report:
    """About ``seconds`` of turns, a like share for each payload, and some for the start of the other process.

    Raises `EngineError`, and what the library raises.
    """
    chosen = [payload for payload in PAYLOADS if _fits(payload)]
    left_out = [payload.name for payload in PAYLOADS if payload not in chosen]
    if not chosen:
        return Report(True, 0, left_out, [], Machine.here())
    with connected(_ring_nbytes(max(chosen, key=lambda payload: payload.nbytes)), ONLY_CHECK) as (
        ring_id,
        ways,
        engine,
    ):
        engine.begin()
        samples: dict[Payload, dict[str, list[Sample]]] = {}
        for payload in chosen:
            watch(payload.name)
            samples[payload] = {way.name: [] for way in ways}
            _take_turns(
                payload, ways, seconds / len(chosen), lambda way, request: exchange(way, request, engine), samples
            )
    return Report.of(samples, left_out, left_nbytes(ring_id))


def _take_turns(
    payload: Payload,
    ways: list[Transport],
    seconds: float,
    send: Callable[[Transport, Request], Sample],
    samples: dict[Payload, dict[str, list[Sample]]],
) -> None:
    """All ways in each turn, so that whatever else the machine does meets them alike."""
    requests, end = _requests(payload), time.monotonic() + seconds
    for turn, request in enumerate(requests):
        if turn >= WARM_UP + LEAST_TURNS and time.monotonic() > end:
            return
        for way in ways:
            samples[payload][way.name].append(send(way, request))


def _requests(payload: Payload) -> Iterator[Request]:
    """Two by turns, of other bytes: memory that was not written again fails its checksum."""
    generator = torch.Generator().manual_seed(0)
    two = []
    for _ in range(2):
        tensors = [torch.rand(payload.tensor_nbytes // 4, generator=generator) for _ in range(payload.tensors)]
        two.append(Request(tensors, [checksum(tensor) for tensor in tensors]))
    return cycle(two)


def _ring_nbytes(payload: Payload) -> int:
    """Two tensors more, for what stays free at the ring's end and before its oldest block."""
    return (payload.tensors + 2) * payload.tensor_nbytes


def _fits(payload: Payload) -> bool:
    """On the backing that the ring would have."""
    shared_nbytes = _ring_nbytes(payload) + CONTROL_NBYTES
    free_nbytes, _ = segment.choose("auto", shared_nbytes).free_nbytes()
    return shared_nbytes <= free_nbytes and PROCESSES_NBYTES + COPIES * payload.nbytes <= Room.here().memory_nbytes
