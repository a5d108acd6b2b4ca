"""Does the plan choose the right copy kernel? Every kernel, on every number of threads, from 4 KiB to 256 MiB.

Read this first:
* One process copies; nothing reads the result. What a reader gains from finding the payload in the cache is not in
  these figures. It is why copies below 64 KiB are always memcpy: their cold rows are shown, but not judged.
* ``cold`` goes through two areas several times the cache. ``warm`` goes through two areas of a sixteenth of it, as a
  small ring would; on a machine whose cache is shared with strangers, warm is only as warm as they leave it.
* A plan leaves half of the CPUs to the readers. More threads are timed and shown, but not judged, for the same
  reason: here nobody else wants those CPUs.
* The plan was made from flushed lines in areas of 4 MiB (csrc/copy_calibrate.c), not from anything measured here.

Timed in C by CLOCK_MONOTONIC; in each of 15 repeats the kernels take turns, the chosen one among them. A kernel
counts with the lower quartile of its samples: other processes only ever slow a copy, and with turns they slow all
alike. The fastest of several that are equal is fast by chance in part, which counts against the plan.

    python bench/bench_copy.py [--json]        exit status 1 if the plan misses one of REQUIREMENTS
    pytest bench/bench_copy.py                 the same, and the sizes as pytest-benchmark entries
"""

import argparse
import ctypes
import json
import math
import mmap
import platform
import random
import statistics
import sys
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from shmtransport import copying, host
from shmtransport.copying import Choice, Trial

REQUIREMENTS = {
    "geometric_mean_of_best": 0.97,
    "least_of_best": 0.90,
    "least_of_libc": 0.90,
    "of_libc_at_16_mib_cold": 1.5,
}
REPEATS = 15
SIZES = [4096 << step for step in range(17)]
COLD_AREA_NBYTES = 2 * SIZES[-1]
WARM_SHARE = 16
WARM_MOST_NBYTES = 2 << 20
BURST_NBYTES = {"cold": 8 << 20, "warm": 4 << 20}
MIB = 1 << 20


class Area:
    """Anonymous memory that has been touched and holds random bytes: private as a tensor's, shared as a segment's."""

    def __init__(self, nbytes: int, kind: int) -> None:
        self.memory = mmap.mmap(-1, nbytes, flags=kind | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE)
        pattern = random.Random(0).randbytes(MIB)
        for offset in range(0, nbytes, MIB):
            self.memory[offset : offset + MIB] = pattern
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))


class Areas(NamedTuple):
    dst: Area
    src: Area

    @classmethod
    def make(cls) -> "Areas":
        return cls(Area(COLD_AREA_NBYTES, mmap.MAP_SHARED), Area(COLD_AREA_NBYTES, mmap.MAP_PRIVATE))


class Row(NamedTuple):
    """One size, cold or warm: all that took turns, what the plan chose, and how it did."""

    cache: str
    nbytes: int
    judged: bool
    chosen: Choice
    samples: dict[Choice, tuple[float, ...]]

    def ns(self, choice: Choice) -> float:
        return statistics.quantiles(self.samples[choice], n=4)[0]

    def of(self, rival: Choice) -> float:
        """How fast the chosen kernel was, the rival being 1."""
        return self.ns(rival) / self.ns(self.chosen)

    @property
    def of_best(self) -> float:
        planned = copying.machine().planned_threads
        return min(self.of(rival) for rival in self.samples if rival.threads <= planned)

    @property
    def of_libc(self) -> float:
        return self.of(Choice("libc", 1))

    def as_json(self) -> dict[str, Any]:
        return {
            "cache": self.cache,
            "nbytes": self.nbytes,
            "judged": self.judged,
            "chosen": str(self.chosen),
            "of_best": round(self.of_best, 3),
            "of_libc": round(self.of_libc, 3),
            "gb_per_s": {str(choice): round(self.nbytes / self.ns(choice), 2) for choice in self.samples},
        }


def candidates(nbytes: int) -> tuple[Choice, ...]:
    """Every kernel on 1, 2, 4 … threads, as far as that many would work on a copy of this size."""
    found = copying.machine()
    numbers = [n for n in (1, 2, 4, 8) if n <= found.threads and (n == 1 or nbytes >= n * copying.THREAD_NBYTES)]
    return tuple(Choice(kernel, threads) for threads in numbers for kernel in found.kernels)


def measure_row(areas: Areas, cache: str, nbytes: int) -> Row:
    found = copying.machine()
    area_nbytes = COLD_AREA_NBYTES if cache == "cold" else found.cache_nbytes // WARM_SHARE
    trial = Trial(
        dst_address=areas.dst.address,
        src_address=areas.src.address,
        area_nbytes=area_nbytes,
        nbytes=nbytes,
        copies=max(1, BURST_NBYTES[cache] // nbytes),
        settling_copies=area_nbytes // nbytes if cache == "warm" else 0,
        repeats=REPEATS,
    )
    choices = candidates(nbytes)
    judged = cache == "warm" or nbytes >= found.class_nbytes[0]
    samples = copying.time_copies(trial, choices)
    return Row(cache, nbytes, judged, copying.choose(nbytes, area_nbytes), dict(zip(choices, samples, strict=True)))


def measure(areas: Areas) -> Iterator[Row]:
    for cache in ("cold", "warm"):
        for nbytes in SIZES:
            if cache == "cold" or nbytes <= min(WARM_MOST_NBYTES, copying.machine().cache_nbytes // WARM_SHARE):
                yield measure_row(areas, cache, nbytes)


def geometric_mean(values: list[float]) -> float:
    return math.exp(statistics.fmean(math.log(value) for value in values))


def verdict(rows: list[Row]) -> dict[str, Any]:
    """Each figure of REQUIREMENTS, and which of them are missed.

    The last applies where the CPU gains, that is where any kernel reaches it; elsewhere the figure is None.
    """
    judged = [row for row in rows if row.judged]
    (large,) = (row for row in rows if row.cache == "cold" and row.nbytes == 16 * MIB)
    gain = REQUIREMENTS["of_libc_at_16_mib_cold"]
    gains = large.of_libc / large.of_best >= gain
    figures = {
        "geometric_mean_of_best": geometric_mean([row.of_best for row in judged]),
        "least_of_best": min(row.of_best for row in judged),
        "least_of_libc": min(row.of_libc for row in judged),
        "of_libc_at_16_mib_cold": large.of_libc if gains else None,
    }
    missed = [name for name, value in figures.items() if value is not None and value < REQUIREMENTS[name]]
    return {**{name: value and round(value, 3) for name, value in figures.items()}, "missed": missed}


def describe_machine() -> dict[str, Any]:
    return {
        "cpu": host.cpu_model(),
        "cpus": host.cpus(),
        "cache_nbytes": copying.machine().cache_nbytes,
        "kernel": platform.release(),
        "libc": " ".join(platform.libc_ver()),
    }


def run() -> dict[str, Any]:
    start = time.perf_counter()
    plan = copying.calibrate()
    calibration_s = time.perf_counter() - start
    rows = list(measure(Areas.make()))
    return {
        "machine": describe_machine(),
        "calibration_s": round(calibration_s, 4),
        "plan": {
            "warm_limit_nbytes": plan.warm_limit_nbytes,
            "warm": [str(choice) for choice in plan.warm],
            "cold": [str(choice) for choice in plan.cold],
        },
        "rows": [row.as_json() for row in rows],
        "verdict": verdict(rows),
    }


def show(report: dict[str, Any]) -> None:
    print(", ".join(f"{name} {value}" for name, value in report["machine"].items()))
    print(f"calibrated in {report['calibration_s'] * 1e3:.0f} ms: {report['plan']}")
    names = list(dict.fromkeys(name for row in report["rows"] for name in row["gb_per_s"]))
    print("GB/s".ljust(16) + "".join(name.rjust(13) for name in names) + "   chosen        of best  of libc")
    for row in report["rows"]:
        speeds = (row["gb_per_s"].get(name) for name in names)
        columns = "".join((f"{speed:.1f}" if speed else "").rjust(13) for speed in speeds)
        ratios = f"{row['of_best']:10.2f}{row['of_libc']:9.2f}{'' if row['judged'] else '   not judged'}"
        print(f"{row['cache']} {row['nbytes'] >> 10:7} KiB{columns}   {row['chosen']:12}{ratios}")
    for name, least in REQUIREMENTS.items():
        value = report["verdict"][name]
        print(f"{name}: {'does not apply: no kernel reaches it' if value is None else value} (at least {least})")
    print(f"missed: {', '.join(report['verdict']['missed']) or 'nothing'}")


@pytest.fixture(scope="module")
def areas() -> Areas:
    copying.calibrate()
    return Areas.make()


@pytest.mark.timeout(300)
def test_the_plan_keeps_up_with_the_best_kernel(benchmark: Any) -> None:
    report = benchmark.pedantic(run, rounds=1)
    benchmark.extra_info.update(report)
    show(report)
    assert report["verdict"]["missed"] == []


@pytest.mark.parametrize("nbytes", SIZES[::2], ids=lambda nbytes: f"{nbytes >> 10}KiB")
def test_a_planned_copy(benchmark: Any, areas: Areas, nbytes: int) -> None:
    """From Python, one copy a round, cold: what the call itself adds shows at the small sizes."""
    last = COLD_AREA_NBYTES - nbytes
    offsets = iter(range(0, 1 << 60, nbytes))

    def next_place() -> tuple[tuple[int, int, int, int], dict[str, Any]]:
        offset = next(offsets) % (last + 1) & -4096
        return (areas.dst.address + offset, areas.src.address + offset, nbytes, COLD_AREA_NBYTES), {}

    benchmark.pedantic(copying.copy, setup=next_place, rounds=REPEATS)
    benchmark.extra_info["chosen"] = str(copying.choose(nbytes, COLD_AREA_NBYTES))


def main() -> int:
    parser = argparse.ArgumentParser(description="Compare the copy plan with every kernel.")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    arguments = parser.parse_args()
    report = run()
    if arguments.json:
        print(json.dumps(report))
    else:
        show(report)
    return bool(report["verdict"]["missed"])


if __name__ == "__main__":
    sys.exit(main())
