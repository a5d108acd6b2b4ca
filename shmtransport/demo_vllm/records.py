"""What the recorder writes down of each request, and reading it.

One JSON line an event. Times are those of the kernel's monotonic clock, which all processes of a host share.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias, TypeVar

import msgspec


class Decoded(msgspec.Struct, frozen=True, tag="decoded"):
    """The EngineCore's input thread has decoded a request, and its tensors can be used."""

    request_id: str
    decoded_s: float
    images: int
    """Items that came with the message; what the core's cache held is not among them."""
    digests: list[str]
    """SHA-256 of each item's pixels; empty unless digests were asked for."""
    prompt_embeds: str | None = None
    """SHA-256 of the embeddings that came in place of tokens; None as above."""


class Passed(msgspec.Struct, frozen=True, tag="passed"):
    """The EngineCore has written a message for its workers that carries new requests, with all their pixels."""

    request_ids: list[str]
    begun_s: float
    seconds: float
    """How long the call took: pickling, waiting for a free block of the queue, and writing."""
    wire_nbytes: int
    """What it wrote into the queue's shared memory and into its sockets."""


class Received(msgspec.Struct, frozen=True, tag="received"):
    """A worker has taken that message out of the queue."""

    request_ids: list[str]
    rank: int
    received_s: float
    seconds: float
    """From the moment at which this worker saw the message announced until its tensors could be used. A message
    too large for the queue's shared memory is announced there and comes by socket, and that is counted in."""
    digests: dict[str, list[str]]
    """Of each request SHA-256 of each item's pixels; empty unless digests were asked for."""
    prompt_embeds: dict[str, str] = {}
    """Of each request that has some SHA-256 of its embeddings; empty as above."""


class Merged(msgspec.Struct, frozen=True, tag="merged"):
    """Who runs the model has merged a step's items and has them on its device."""

    rank: int
    merged_s: float
    nbytes: int
    merge_seconds: float
    """Making one tensor of them, pinned if vLLM asks for it."""
    copy_seconds: float
    """From there until the device has it."""
    digest: str | None
    """SHA-256 of what the device has; None unless digests were asked for."""


Event: TypeAlias = Decoded | Passed | Received | Merged
AnyEvent = TypeVar("AnyEvent", Decoded, Passed, Received, Merged)


def append(path: Path, event: Event) -> None:
    """Adds one line, whole even when several processes write at once."""
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(file, msgspec.json.encode(event) + b"\n")
    finally:
        os.close(file)


def read(path: Path) -> list[Event]:
    """All events, in the order in which they were written; none if nothing was."""
    lines = path.read_bytes().splitlines() if path.exists() else []
    return [msgspec.json.decode(line, type=Decoded | Passed | Received | Merged) for line in lines]


def of_kind(events: list[Event], kind: type[AnyEvent]) -> Iterator[AnyEvent]:
    """Those of one kind."""
    return (event for event in events if isinstance(event, kind))
