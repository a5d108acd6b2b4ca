"""What a process does with a ring, one operation each, so that any call in it may fail.

An operation is a context manager: it prepares, undisturbed, then yields what is to be done and how to see that it was
done right, and takes everything down again. Nothing that it made is left after it.
"""

import contextlib
import itertools
import secrets
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import zmq

from shmtransport import Channel, Handle, Reader, Ring, attachment, sweep
from shmtransport.config import BackingName, OnFull
from shmtransport.tensors import Tensor
from tests.support import segment_names

SEGMENT_NBYTES = 64 << 10
ENTRIES = 64


@dataclass(frozen=True)
class Operation:
    """May be done several times; each answer is checked before the next."""

    act: Callable[[], Any]
    check: Callable[[Any], None]
    """Raises AssertionError if the answer is wrong, whichever way it came."""


Prepared = AbstractContextManager[Operation]


def pixels(fill: int) -> torch.Tensor:
    """As many bytes as a segment has, different ones for each ``fill``."""
    return torch.from_numpy((np.arange(SEGMENT_NBYTES) * 7 + fill).astype(np.uint8))


def same(answer: Tensor, fill: int) -> None:
    assert isinstance(answer, torch.Tensor)
    assert torch.equal(answer, pixels(fill)), "other bytes"


def small_ring(backing: BackingName, on_full: OnFull = "raise", *, segments: int = 16) -> Ring:
    """One segment, and as many more as it may grow to."""
    capacity = segments * SEGMENT_NBYTES
    return Ring.create(
        capacity, segment=SEGMENT_NBYTES, entries=ENTRIES, on_full=on_full, timeout_s=0.2, backing=backing
    )


def join_anew(ring: Ring) -> Reader:
    """A place of its own, as another process would get it: the registry of this one does not know the ring."""
    attachment._attachments.pop(ring.id, None)
    return Reader.join(ring.id)


@contextlib.contextmanager
def create(backing: BackingName) -> Iterator[Operation]:
    def check(ring: Ring) -> None:
        with ring:
            assert len([name for name in segment_names() if ring.id in name]) == (2 if backing == "posix" else 1)
            same(ring.put(pixels(1)), 1)

    yield Operation(lambda: small_ring(backing), check)


@contextlib.contextmanager
def join(backing: BackingName) -> Iterator[Operation]:
    with small_ring(backing) as ring:

        def check(reader: Reader) -> None:
            with reader:
                same(reader.open(bytes(ring.share(pixels(2), reader))), 2)

        yield Operation(lambda: join_anew(ring), check)


@contextlib.contextmanager
def grow(backing: BackingName, on_full: OnFull) -> Iterator[Operation]:
    with small_ring(backing, on_full) as ring:
        held = [ring.put(pixels(3))]
        fills = itertools.count(4)

        def put() -> tuple[int, torch.Tensor]:
            fill = next(fills)
            return fill, ring.put(pixels(fill))

        def check(answer: tuple[int, torch.Tensor]) -> None:
            fill, tensor = answer
            same(tensor, fill)
            same(held[0], 3)
            if backing == "posix":
                assert ring.statistics().segments == len([name for name in segment_names() if ring.id in name]) - 1
            assert on_full == "inline" or ring.holds(tensor)
            held.append(tensor)

        yield Operation(put, check)
        held.clear()


@contextlib.contextmanager
def wait(backing: BackingName) -> Iterator[Operation]:
    """A full ring at its capacity, half of it held by a reader that dies: the writer reaps it."""
    with small_ring(backing, "block", segments=1) as ring:
        readers = []

        def put() -> torch.Tensor:
            reader = join_anew(ring)
            taken = reader.open(bytes(ring.share(pixels(5), reader)))
            readers.append((reader, taken))
            reader.attachment.core.abandon()
            return ring.put(pixels(6))

        yield Operation(put, lambda tensor: same(tensor, 6))
        readers.clear()


@contextlib.contextmanager
def open_new_segment(backing: BackingName) -> Iterator[Operation]:
    """A reader opens what lies in a segment that it has not mapped yet; a failure is made good by map_ahead."""
    with small_ring(backing) as ring, join_anew(ring) as reader:
        held = {7: ring.put(pixels(7))}
        fills = itertools.count(8)

        def share_and_open() -> tuple[int, Tensor]:
            fill = next(fills)
            held[fill] = ring.put(pixels(fill))
            return fill, reader.open(bytes(ring.share(held[fill], reader)))

        def check(answer: tuple[int, Tensor]) -> None:
            fill, tensor = answer
            same(tensor, fill)
            for known, lent in held.items():
                same(lent, known)
            reader.map_ahead()
            assert isinstance(ring.share(held[fill], reader), Handle), "inline for ever"

        yield Operation(share_and_open, check)
        held.clear()


@contextlib.contextmanager
def share(backing: BackingName) -> Iterator[Operation]:
    """The first ticket of an attachment, which starts its settling thread."""
    with small_ring(backing) as ring, join_anew(ring) as reader:

        def check(wire: bytes) -> None:
            same(reader.open(wire), 9)

        yield Operation(lambda: bytes(ring.share(pixels(9), reader)), check)


@contextlib.contextmanager
def talk(backing: BackingName) -> Iterator[Operation]:
    """A message over a channel, whose ring grows for it, to a process that has not mapped the growth yet."""
    address = f"inproc://{secrets.token_hex(8)}"
    with (
        zmq.Context() as context,
        context.socket(zmq.PAIR) as one,
        context.socket(zmq.PAIR) as other,
        small_ring(backing, "inline") as ring,
    ):
        one.bind(address)
        other.connect(address)
        attachment._attachments.pop(ring.id)  # the receiver will join as another process would
        with Channel(one, ring) as sender, Channel(other) as receiver:
            fills = itertools.count(10)
            kept: list[torch.Tensor] = []

            def send_and_receive() -> tuple[int, torch.Tensor]:
                fill = next(fills)
                sender.send({"pixels": pixels(fill)}, timeout_s=5)
                return fill, receiver.recv(timeout_s=5)["pixels"]

            def check(answer: tuple[int, torch.Tensor]) -> None:
                fill, tensor = answer
                same(tensor, fill)
                kept.append(tensor)

            check(send_and_receive())
            assert sender.join(timeout_s=5)
            check(send_and_receive())  # fills the first segment
            yield Operation(send_and_receive, check)
            kept.clear()


@contextlib.contextmanager
def close(backing: BackingName) -> Iterator[Operation]:
    """The last two processes leave, one with a handle on its way to the other."""
    with small_ring(backing) as ring, join_anew(ring) as reader:
        tensor = reader.open(bytes(ring.share(pixels(11), reader)))
        ring.share(pixels(12), reader)
        same(tensor, 11)
        del tensor

        def leave() -> None:
            reader.close()
            ring.close()

        yield Operation(leave, lambda _: None)


@contextlib.contextmanager
def sweep_orphan(backing: BackingName) -> Iterator[Operation]:
    """The names of a ring whose only process has died."""
    with small_ring(backing) as ring:
        ring.attachment.core.abandon()

        def check(_: object) -> None:
            if any(ring.id in name for name in segment_names()):
                sweep()  # a sweep passes over what it cannot judge; the next one does not
            assert not any(ring.id in name for name in segment_names())

        yield Operation(sweep, check)


OPERATIONS: dict[str, Callable[[BackingName], Prepared]] = {
    "create": create,
    "join": join,
    "grow, or raise": lambda backing: grow(backing, "raise"),
    "grow, or wait": lambda backing: grow(backing, "block"),
    "grow, or go inline": lambda backing: grow(backing, "inline"),
    "wait for room": wait,
    "open in a new segment": open_new_segment,
    "share": share,
    "talk": talk,
    "close": close,
    "sweep": sweep_orphan,
}
