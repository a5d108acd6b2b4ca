"""`bench/interference.py` as benchmarks, with the target asserted where there is one; its docstring says what they are.

pytest bench/bench_interference.py
"""

from typing import Any

import pytest

from bench.interference import rows
from bench.interferences import fragmentation, loop_delay, occupancy, readers, text_latency, writers
from bench.interferences.figures import Row

pytestmark = pytest.mark.timeout(300)


def measured(benchmark: Any, name: str) -> list[Row]:
    """One quick run of an experiment, its rows kept with the benchmark's."""
    found: list[Row] = benchmark.pedantic(lambda: list(rows([name], quick=True)), rounds=1)
    benchmark.extra_info["rows"] = found
    return found


def test_a_text_does_not_wait_for_images(benchmark: Any) -> None:
    found = [row for row in measured(benchmark, text_latency.NAME) if row["subject"].startswith("shmtransport")]
    assert [row["ratio_p99"] <= text_latency.TARGET for row in found] == [True, True], found


def test_the_event_loop_goes_on_while_images_are_sent(benchmark: Any) -> None:
    assert measured(benchmark, loop_delay.NAME)


def test_writers_share_the_memory_bandwidth(benchmark: Any) -> None:
    assert len(measured(benchmark, writers.NAME)) == len(writers.WRITERS)


def test_readers_share_one_write(benchmark: Any) -> None:
    assert len(measured(benchmark, readers.NAME)) == len(readers.READERS)


def test_an_occupied_ring_serves(benchmark: Any) -> None:
    assert measured(benchmark, occupancy.NAME)


def test_a_day_does_not_fragment_the_ring(benchmark: Any) -> None:
    assert measured(benchmark, fragmentation.NAME)
