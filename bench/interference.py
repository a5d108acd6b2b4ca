"""What stands in whose way: a text behind images, an event loop behind copies, writers, readers, a full ring, a day.

Read this first:
* A text, 1.7 KB, and requests with ten images, 96 MB, go by one ROUTER socket from one event loop, as in vLLM's
  frontend, to a process that receives and decodes in one thread and reads every byte of the images in another. Texts
  are tasks of their own, started 500 times a second whether or not earlier ones have gone; requests come 4 times a
  second. A text is timed from its call on the loop until it is decoded, by CLOCK_MONOTONIC; what a busy loop adds
  before the call is the event-loop delay, and not in it.
* "shmtransport" writes images into the ring where they are made, in a thread, as its vLLM plugin does; "copied by send"
  leaves that to its channel; vLLM encodes on the loop and sends without a copy, as it does; pickle runs on the loop, as
  it did in vLLM until 0.8.3. Each starts from the same tensors in ordinary memory.
* On two cores the copy, the loop, the receiver and the reader of the images share them: a tail is the scheduler's too.
  What a way is told by is loaded over unloaded, which go by turns; absolute figures are the machine's.
* Writers and readers only open and drop while the clock runs: gbps is what could be read, not what was. Bytes are
  compared before.
* An occupied ring is timed in one process, without a socket. A day is simulated: allocations and no bytes.

    python bench/interference.py                        all of it; four minutes
    python bench/interference.py --quick                fewer repeats; within 90 seconds on two cores
    python bench/interference.py --json                 the list alone
    python bench/interference.py --experiment writers --experiment readers

vLLM's way needs `make venv-vllm`; without it its rows say so. Exit status 1 if a way that is installed brought other
bytes, or none at all.
"""

import argparse
import json
import sys
from collections.abc import Collection, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]  # where Python was told to run this file it finds its folder only

from bench.compare import is_absent  # noqa: E402
from bench.interferences import fragmentation, loop_delay, occupancy, readers, text_latency, writers  # noqa: E402
from bench.interferences.figures import Row  # noqa: E402
from bench.interferences.service import running  # noqa: E402
from bench.interferences.way import WAYS  # noqa: E402
from bench.machine import machine  # noqa: E402
from bench.peers.pair import Failure  # noqa: E402

OF_A_SERVICE = (text_latency, loop_delay)
ALONE = (writers, readers, occupancy, fragmentation)
NAMES = [experiment.NAME for experiment in (*OF_A_SERVICE, *ALONE)]


def rows(names: Collection[str], *, quick: bool) -> Iterator[Row]:
    """Those of the experiments so named. A service, which takes seconds to start, serves both that need one."""
    for subject, way in WAYS.items():
        chosen = [
            experiment
            for experiment in OF_A_SERVICE
            if experiment.NAME in names and (way.is_texted or experiment is not text_latency)
        ]
        done = 0
        try:
            if chosen:
                print(f"{subject}: {', '.join(experiment.NAME for experiment in chosen)}", file=sys.stderr)
                with running(subject) as service:
                    for experiment in chosen:
                        yield experiment.measure(service, subject, quick=quick)
                        done += 1
        except (Failure, FileNotFoundError) as error:
            for experiment in chosen[done:]:
                yield {"experiment": experiment.NAME, "subject": subject, "verified": False, "reason": str(error)}
    for alone in ALONE:
        if alone.NAME in names:
            print(alone.NAME, file=sys.stderr)
            yield from alone.rows(quick=quick)


def _shown(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def as_tables(found: Sequence[Row]) -> str:
    """Markdown, one table an experiment, and the target."""
    lines = []
    for name, group in groupby(
        sorted(found, key=lambda row: NAMES.index(row["experiment"])), lambda row: row["experiment"]
    ):
        alike = list(group)
        columns = list(dict.fromkeys(key for row in alike for key in row if key != "experiment"))
        lines += [f"{name}:", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
        lines += [f"| {' | '.join(_shown(row.get(key, '')) for key in columns)} |" for row in alike]
        lines.append("")
    for row in found:
        if "target" in row:
            verdict = "met" if row["met"] else "missed"
            ratio = f"loaded p99 / unloaded p99 = {row['ratio_p99']:.2f}"
            lines.append(f"{row['subject']}: {ratio}, target {row['target']} {verdict}")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer repeats")
    parser.add_argument("--json", action="store_true", help="print one JSON list and nothing else")
    parser.add_argument("--experiment", action="append", choices=NAMES, help="only this one, and again")
    arguments = parser.parse_args()
    print(machine(), file=sys.stderr)
    found = list(rows(arguments.experiment or NAMES, quick=arguments.quick))
    print(json.dumps(found) if arguments.json else as_tables(found))
    return any(not row.get("verified", True) and not is_absent(row["reason"]) for row in found)


if __name__ == "__main__":
    sys.exit(main())
