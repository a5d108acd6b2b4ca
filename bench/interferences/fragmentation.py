"""What a day of random sizes and lifetimes leaves of a ring's free room: simulated, on the ring's own allocator.

Requests come at random moments: 1 to 4 images of random sides and element size, in one block each. Nine of ten live
for a while, the tenth, as in a cache, 20 times as long; both are exponential. The load is how much of the ring they
would take on average if each found room; who finds none goes inline. Nothing is written. Fewer requests a day (--quick)
live longer each.

A request that finds no room failed by fragmentation where free bytes would have been enough, else because the ring was
full. The ring is one segment, so that only what lies between blocks divides it.
"""

import heapq
import random
import statistics
import time
from collections.abc import Iterator
from typing import Final, NamedTuple

from bench.interferences.figures import Row
from shmtransport import Ring, _core

NAME: Final = "fragmentation"
CAPACITY_NBYTES: Final = 1 << 30
LOADS: Final = (50, 70, 90)
"""In percent."""
REQUESTS: Final = 1_000_000
QUICK_REQUESTS: Final = 250_000
"""In a day, for each load."""
DAY_S: Final = 86_400
WINDOWS: Final = 4
LONG_LIFE: Final = 20
SEED: Final = 16461
LOOK_EVERY: Final = 100
"""Requests."""
SIDES: Final = range(224, 1345, 28)
PAGE_NBYTES: Final = 4096


class Wish(NamedTuple):
    """What a request wants."""

    at_s: float
    nbytes: int
    until_s: float


class Window:
    """What was seen in a part of the day."""

    def __init__(self) -> None:
        self.requests = 0
        self.fragmented = 0
        self.full = 0
        self.allocate_ns = 0
        self.occupancies: list[float] = []
        self.largest: list[float] = []
        """Free extent, of all that is free."""

    def look(self, core: _core.Attachment) -> None:
        used, total, largest, _ = core.room()
        self.occupancies.append(used / total)
        if used < total:
            self.largest.append(largest / (total - used))

    def count_failure(self, core: _core.Attachment, nbytes: int) -> None:
        used, total, _, _ = core.room()
        if total - used >= nbytes:
            self.fragmented += 1
        else:
            self.full += 1


def nbytes_of(chance: random.Random) -> int:
    """Of a random request."""
    nbytes = chance.choice((2, 4)) * 3 * chance.choice(SIDES) * chance.choice(SIDES) * chance.choice((1, 1, 1, 2, 3, 4))
    return -(-nbytes // PAGE_NBYTES) * PAGE_NBYTES


def wishes(load: int, requests: int) -> Iterator[Wish]:
    """A day's."""
    chance = random.Random(SEED + load)
    typical = statistics.fmean(nbytes_of(chance) for _ in range(20_000))
    interval_s = DAY_S / requests
    mean_life_s = load / 100 * CAPACITY_NBYTES / typical * interval_s
    short_s = mean_life_s / (0.9 + 0.1 * LONG_LIFE)
    at_s = 0.0
    for _ in range(requests):
        at_s += chance.expovariate(1 / interval_s)
        life_s = chance.expovariate(1 / short_s) * (LONG_LIFE if chance.random() < 0.1 else 1)
        yield Wish(at_s, nbytes_of(chance), at_s + life_s)


def day(core: _core.Attachment, load: int, requests: int) -> list[Window]:
    """Seen in equal parts of a day."""
    windows = [Window() for _ in range(WINDOWS)]
    alive: list[tuple[float, int, _core.Lease]] = []
    for number, wish in enumerate(wishes(load, requests)):
        while alive and alive[0][0] <= wish.at_s:
            heapq.heappop(alive)
        window = windows[number * WINDOWS // requests]
        window.requests += 1
        start = time.perf_counter_ns()
        lease = core.allocate(wish.nbytes)
        window.allocate_ns += time.perf_counter_ns() - start
        if isinstance(lease, int):
            window.count_failure(core, wish.nbytes)
        else:
            heapq.heappush(alive, (wish.until_s, number, lease))
        if number % LOOK_EVERY == 0:
            window.look(core)
    return windows


def rows(*, quick: bool) -> Iterator[Row]:
    """One for each load and part of the day."""
    requests = QUICK_REQUESTS if quick else REQUESTS
    for load in LOADS:
        with Ring.create(CAPACITY_NBYTES, segment=CAPACITY_NBYTES) as ring:
            windows = day(ring.attachment.core, load, requests)
        for number, window in enumerate(windows):
            yield {
                "experiment": NAME,
                "subject": "shmtransport",
                "load_percent": load,
                "from_hour": number * 24 // WINDOWS,
                "requests": window.requests,
                "occupancy": statistics.fmean(window.occupancies),
                "largest_of_free": statistics.fmean(window.largest),
                "least_largest_of_free": min(window.largest),
                "failed_fragmented": window.fragmented,
                "failed_full": window.full,
                "failed_fragmented_percent": 100 * window.fragmented / window.requests,
                "allocate_us": window.allocate_ns / window.requests / 1e3,
                "seed": SEED + load,
            }
