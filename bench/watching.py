"""What `shmtransport top` costs the ring that it watches.

Read this first:
* A writer puts 4 MiB tensors into a warm ring as fast as it can, in slices of half a second; `top` looks at it once an
  interval, and is stopped (SIGSTOP) in every other slice, so that whatever else the machine does meets both alike.
* The ratio is that of neighbouring slices, median; 1 is no cost. On two cores top's own work competes for neither.

    python bench/watching.py                                 intervals of 1 and 0.1 s
    python bench/watching.py --slices 200 --json             one list and nothing else
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]  # where Python was told to run this file it finds its folder only

from bench.machine import machine  # noqa: E402
from shmtransport import Ring  # noqa: E402

SLICE_S = 0.5
TENSOR = torch.ones(1 << 20)
HELD = 64
"""Blocks that stay, so that there is something to look at."""


def puts_a_second(ring: Ring) -> float:
    """In one slice."""
    begun, puts = time.perf_counter(), 0
    while (taken := time.perf_counter() - begun) < SLICE_S:
        ring.put(TENSOR)
        puts += 1
    return puts / taken


def measured(ring: Ring, interval_s: float, pairs: int) -> dict[str, float]:
    """Pairs of slices, without `top` and with it."""
    command = [sys.executable, "-m", "shmtransport", "top", "--json", "--interval", str(interval_s)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as top:
        try:
            if top.stdout is None or not top.stdout.readline():
                raise RuntimeError("top has shown nothing")
            os.set_blocking(top.stdout.fileno(), False)
            ratios = []
            for _ in range(pairs):
                rates = {}
                for sign in (signal.SIGSTOP, signal.SIGCONT):
                    top.send_signal(sign)
                    rates[sign] = puts_a_second(ring)
                    top.stdout.read()
                ratios.append(rates[signal.SIGCONT] / rates[signal.SIGSTOP])
        finally:
            top.kill()
    return {"interval_s": interval_s, "pairs": pairs, "ratio": median(ratios), "worst": min(ratios)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print the list and nothing else")
    parser.add_argument("--slices", type=int, default=60, help="for each interval")
    options = parser.parse_args()
    with Ring.create("1GiB", segment="512MiB") as ring:
        held = [ring.put(TENSOR) for _ in range(HELD)]
        puts_a_second(ring)
        rows = [measured(ring, interval_s, options.slices // 2) for interval_s in (1.0, 0.1)]
        del held
    if options.json:
        print(json.dumps(rows))
    else:
        print(machine())
        for row in rows:
            print(f"a look each {row['interval_s']:g} s: {row['ratio']:.4f} of the throughput without")
    return 0


if __name__ == "__main__":
    sys.exit(main())
