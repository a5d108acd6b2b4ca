"""Tensors that were made in a ring, sent to another process: does the time grow with the bytes?

Read this first:
* Both tensors are filled in place, by `Ring.empty`, before the clock runs, and sent again and again by turns, so that
  neither is sent by a colder program than the other. In the comparison above each request is made and verified
  between two transfers.
* Timed is a send, from its call until a receiver that waits for it has the tensor, by CLOCK_MONOTONIC in both.
* The receiver reads every byte of the first and the last of each, untimed.

    .venv-bench/bin/python bench/in_place.py
    .venv-bench/bin/python bench/in_place.py --rounds 201 --json
"""

import argparse
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import torch
import zmq

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]  # where Python was told to run this file it finds its folder only

from bench import payloads  # noqa: E402
from bench.machine import machine  # noqa: E402
from examples.measuring import checksum  # noqa: E402
from shmtransport import Channel, Ring  # noqa: E402

NAMES: Final = ("1 MB", "482 MB")
WARM_UPS: Final = 20
START_S: Final = 60.0


def receive(address: str) -> None:
    """Answers when each tensor was there, with what is in it where that is asked for; ends with None."""
    with zmq.Context() as context, context.socket(zmq.PAIR) as socket:
        socket.connect(address)
        with Channel(socket, name="receiver") as channel:
            while (request := channel.recv(tuple[torch.Tensor, bool] | None)) is not None:
                there_ns = time.monotonic_ns()
                channel.send((there_ns, checksum(request[0]) if request[1] else 0))
                del request


def made_in(ring: Ring, name: str) -> torch.Tensor:
    """The one tensor of a payload, in the ring."""
    tensor = payloads.BY_NAME[name].request(1)[0]
    return ring.empty(tensor.shape, tensor.dtype).copy_(tensor)


def raced(rounds: int) -> dict[str, list[float]]:
    """Seconds, by payload. Raises `AssertionError` for other bytes than were sent, or what did not go by handle."""
    found: dict[str, list[float]] = {name: [] for name in NAMES}
    nbytes = sum(payloads.BY_NAME[name].nbytes for name in NAMES)
    with (
        tempfile.TemporaryDirectory() as folder,
        zmq.Context() as context,
        context.socket(zmq.PAIR) as socket,
        Ring.create(2 * nbytes, segment=2 * nbytes, on_full="raise", name="sender") as ring,
        Channel(socket, ring) as channel,
    ):
        socket.bind(f"ipc://{folder}/in-place")
        spawn = multiprocessing.get_context("spawn")
        process = spawn.Process(target=receive, args=(f"ipc://{folder}/in-place",))
        process.start()
        channel.join(timeout_s=START_S)
        made = {name: made_in(ring, name) for name in NAMES}
        for number in range(WARM_UPS + rounds):
            for name, tensor in made.items():
                verifies = number in (0, WARM_UPS + rounds - 1)
                began_ns = time.monotonic_ns()
                channel.send((tensor, verifies))
                there_ns, summed = channel.recv(tuple[int, int], timeout_s=START_S)
                assert not verifies or summed == checksum(tensor)
                if number >= WARM_UPS:
                    found[name].append((there_ns - began_ns) / 1e9)
        assert channel.statistics().handles == len(NAMES) * (WARM_UPS + rounds)
        channel.send(None)
        process.join()
    return found


def rows_of(found: dict[str, list[float]]) -> list[dict[str, Any]]:
    """One a payload, and how many times as long as the first it takes: the median of neighbours' ratios."""
    first = found[NAMES[0]]
    return [
        {
            "payload": name,
            "payload_nbytes": payloads.BY_NAME[name].nbytes,
            "rounds": len(seconds),
            "median_ms": statistics.median(seconds) * 1e3,
            "p99_ms": sorted(seconds)[int(0.99 * len(seconds))] * 1e3,
            "ratio_to_1_mb": statistics.median(a / b for a, b in zip(seconds, first, strict=True)),
            "verified": True,
        }
        for name, seconds in found.items()
    ]


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=201)
    parser.add_argument("--json", action="store_true", help="print one JSON list and nothing else")
    options = parser.parse_args()
    rows = rows_of(raced(options.rounds))
    if options.json:
        print(json.dumps(rows))
        return
    print(machine())
    for row in rows:
        print(f"{row['payload']:>7}: {row['median_ms']:.3f} ms, {row['ratio_to_1_mb']:.2f} times 1 MB")


if __name__ == "__main__":
    main()
