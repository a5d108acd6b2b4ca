"""Each rival's transfers as pytest-benchmark entries: `make bench`, or with ``--benchmark-json FILE``.

What is timed, and how, is `bench/racing.py`'s business: a transfer ends in another process, so pytest-benchmark is
handed the seconds that were measured there by a clock that only they move. Ratios are taken by turns and stand in
``extra_info``; `bench/compare.py` prints the same as a table. A rival that is not installed is skipped by name.
"""

from collections.abc import Iterator
from typing import Any

import pytest

from bench import payloads, peers, racing
from bench.peers.pair import Pair
from bench.racing import OWN, Rival

pytestmark = pytest.mark.timeout(300)

GROUP = [payloads.BY_NAME[name] for name in payloads.QUICK]
ROUNDS = 11


class Clock:
    """Moves by what is added to it."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


CLOCK = Clock()


@pytest.fixture(scope="module")
def own() -> Iterator[Pair]:
    if not peers.PLACES[OWN].python.exists():
        pytest.skip("no .venv-bench: `make bench-env` makes it")
    with racing.started(Rival(OWN, "posix"), GROUP) as (two, _):
        yield two


@pytest.mark.benchmark(timer=CLOCK)
@pytest.mark.parametrize("rival", racing.rivals(list(peers.PLACES)), ids=lambda rival: rival.label)
def test_one_way(benchmark: Any, own: Pair, rival: Rival) -> None:
    """The second payload of the group: as many tensors as a request of ten images has."""
    if not peers.PLACES[rival.name].python.exists():
        pytest.skip(f"not installed: there is no {peers.PLACES[rival.name].environment}")
    with racing.started(rival, GROUP) as (two, start):
        result = racing.race(two, own, GROUP[1], ROUNDS)
    transfers = iter(result.rival)

    def move() -> None:
        CLOCK.seconds += next(transfers).seconds

    benchmark.pedantic(move, rounds=ROUNDS)
    benchmark.extra_info.update(
        ratio_to_shmtransport=result.ratio, first_ms=start.first.seconds * 1e3, version=start.version
    )
