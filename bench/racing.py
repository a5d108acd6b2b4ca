"""A rival and this project, by turns, with the same requests on the same machine: what each transfer took.

By turns, since machines are shared and their speed drifts: a ratio is taken from transfers that lie next to each
other. Each payload gets a few transfers before anything is counted, so that all memory has been touched; what the
first ones of a pair took, with the start of its processes, is told apart as its cold start.
"""

import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from bench import peers
from bench.payloads import Payload
from bench.peers.pair import Pair, Transfer, pair
from bench.peers.peer import Terms

OWN = "shmtransport"
ALIVE = 2
"""Requests: one in the receiver's hands, one on its way."""
WARM_UPS = 3


@dataclass(frozen=True)
class Rival:
    """A peer in one of its modes."""

    name: str
    backing: str

    @property
    def label(self) -> str:
        """The name, with the mode where it is not the only one."""
        return self.name if len(peers.PLACES[self.name].backings) == 1 else f"{self.name} ({self.backing})"


@dataclass
class Race:
    """What a rival's transfers of one payload took, and what this project's took between them."""

    payload: Payload
    rival: list[Transfer] = field(default_factory=list)
    own: list[Transfer] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        """How many times as long the rival takes: the median of neighbours' ratios."""
        return statistics.median(a.seconds / b.seconds for a, b in zip(self.rival, self.own, strict=True))


@dataclass
class Start:
    """A pair's way to its first request."""

    seconds: float
    """Imports, and what it makes before the first request."""
    first: Transfer
    version: str | None


def groups(payloads: Sequence[Payload]) -> list[list[Payload]]:
    """Those whose tensors are of one size: a pair serves one group, since some peers have slots of a fixed size."""
    sizes = dict.fromkeys(payload.tensor_nbytes for payload in payloads)
    return [[payload for payload in payloads if payload.tensor_nbytes == size] for size in sizes]


def rivals(names: Sequence[str]) -> list[Rival]:
    """Every mode of the peers so named."""
    return [Rival(name, backing) for name in names for backing in peers.PLACES[name].backings]


@contextmanager
def started(rival: Rival, payloads: Sequence[Payload]) -> Iterator[tuple[Pair, Start]]:
    """A pair for payloads of one group that has brought the first over. Raises `FileNotFoundError` where its
    environment is missing, and what a pair raises."""
    terms = Terms(
        stem="race",
        nbytes=max(payload.tensor_nbytes for payload in payloads),
        tensors=max(payload.tensors for payload in payloads),
        alive=ALIVE,
    )
    python = peers.PLACES[rival.name].python
    began = time.monotonic()
    with pair(rival.name, rival.backing, terms, payloads[0], python=python) as two:
        two.wait_until_ready()
        seconds = time.monotonic() - began
        yield two, Start(seconds, two.transfer(0), two.version)
        two.close()


def race(two: Pair, own: Pair | None, payload: Payload, rounds: int) -> Race:
    """So many counted transfers of each; without ``own`` the rival runs against itself."""
    result = Race(payload)
    for number in range(WARM_UPS + rounds):
        ours = own.transfer(number, payload) if own else None
        theirs = two.transfer(number, payload)
        if number >= WARM_UPS:
            result.rival.append(theirs)
            result.own.append(ours or theirs)
    return result
