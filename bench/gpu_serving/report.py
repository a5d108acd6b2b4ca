"""What a child process reports, and what was measured of requests with one number of images."""

from collections.abc import Sequence
from statistics import median
from typing import NamedTuple, Self

import msgspec

from shmtransport.demo_vllm.messages import Measured
from shmtransport.demo_vllm.records import Decoded, Event, Merged, Passed, Received, of_kind


class Served(msgspec.Struct, frozen=True):
    """What one vLLM has served."""

    version: str
    warm_up: list[Measured]
    """The first request of each size, whose pixels were hashed."""
    measured: list[Measured]


class Sample(NamedTuple):
    """One request, in seconds."""

    prepare: float
    hop1: float
    enqueue: float
    receive: float
    pin: float
    copy: float
    answer: float
    request: float
    payload_nbytes: int
    digests: list[tuple[int, str | None]]
    """What each rank had on its device, in the order in which it came."""

    @property
    def transport(self) -> float:
        """All that the pixels' way takes, from the processor's output to the device."""
        return self.hop1 + self.enqueue + self.receive + self.pin + self.copy

    @classmethod
    def of(cls, measured: Measured, events: list[Event]) -> Self:
        """Of a rank that did most of each; the second hop is 0 where EngineCore and worker are one process."""
        asked = measured.request_id
        (decoded,) = (event for event in of_kind(events, Decoded) if event.request_id == asked)
        later = [event.decoded_s for event in of_kind(events, Decoded) if event.decoded_s > decoded.decoded_s]
        end = min(later, default=float("inf"))
        passed = [event.seconds for event in of_kind(events, Passed) if asked in event.request_ids]
        received = [event.seconds for event in of_kind(events, Received) if asked in event.request_ids]
        merged = [event for event in of_kind(events, Merged) if decoded.decoded_s <= event.merged_s < end]
        ranks = [[event for event in merged if event.rank == rank] for rank in {event.rank for event in merged}]
        return cls(
            prepare=measured.sent_s - measured.begun_s - measured.staged_s,
            hop1=measured.staged_s + decoded.decoded_s - measured.sent_s,
            enqueue=sum(passed),
            receive=max(received, default=0.0),
            pin=max(sum(event.merge_seconds for event in rank) for rank in ranks),
            copy=max(sum(event.copy_seconds for event in rank) for rank in ranks),
            answer=measured.begun_s + measured.request_s - max(event.merged_s for event in merged),
            request=measured.request_s,
            payload_nbytes=measured.payload_nbytes,
            digests=sorted((event.rank, event.digest) for event in merged),
        )


class Row(msgspec.Struct, frozen=True):
    """Medians, in seconds; shares are of the request."""

    vllm: str
    device: str
    tensor_parallel: int
    images: int
    plugin: bool
    payload_nbytes: int
    prepare_seconds: float
    """From photographs in hand until the processor's output."""
    hop1_seconds: float
    enqueue_seconds: float
    receive_seconds: float
    pin_seconds: float
    copy_seconds: float
    answer_seconds: float
    """From the last pixels on the device until the answer; what came before may have been encoded meanwhile."""
    request_seconds: float
    transport_share: float
    verified: bool
    """All ranks had the same pixels on their devices with the plugin off and on."""

    @classmethod
    def of(cls, what: tuple[str, str, int, int, bool], samples: Sequence[Sample], *, verified: bool) -> Self:
        """``what``: the first five fields."""
        return cls(
            *what,
            payload_nbytes=samples[0].payload_nbytes,
            prepare_seconds=median(sample.prepare for sample in samples),
            hop1_seconds=median(sample.hop1 for sample in samples),
            enqueue_seconds=median(sample.enqueue for sample in samples),
            receive_seconds=median(sample.receive for sample in samples),
            pin_seconds=median(sample.pin for sample in samples),
            copy_seconds=median(sample.copy for sample in samples),
            answer_seconds=median(sample.answer for sample in samples),
            request_seconds=median(sample.request for sample in samples),
            transport_share=median(sample.transport / sample.request for sample in samples),
            verified=verified,
        )
