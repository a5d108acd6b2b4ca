"""A tensor from SGLang's tokenizer to the ranks of its scheduler: by SGLang's own pointer, and by handle.

Read this first:
* Both ways go through the same processes of real SGLang, by turns. There is no model.
* "pointer" is what the ways differ in: making the pointer, with the copy into shared memory, then unpickling it and
  `materialize` in each rank, the slowest counted. What carries the message is not in it.
* "request" is all of it: `TokenizerManager._send_one_request` on one side, `SchedulerRequestReceiver.recv_requests` of
  each rank on the other, from when all of them have begun, the message being there, until all have the tensor. Most of
  what is left by handle is SGLang's own: pickling, its broadcast over gloo, its all-reduce.
* Nobody reads the bytes while the clock runs; all are compared afterwards.
* SGLang's own way runs with the plugin loaded: a pointer without a handle runs SGLang's methods.
* A ratio is the median of transfers that lie next to each other. Machines differ: quote ratios.

    make bench-sglang
    .venv-sglang/bin/python bench/sglang_pointer.py --rounds 41 --json
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]  # where Python was told to run this file it finds its folder only

from bench.machine import machine  # noqa: E402
from tests.processes.children import digest, pixels  # noqa: E402
from tests.sglang.world import World, world  # noqa: E402

WARM_UPS: Final = 3
STOCK: Final = "SGLang"
HANDLE: Final = "handle"

PREPARED: Final = """
import pickle
from sglang.srt.managers.mm_utils import ShmPointerMMData
from shmtransport.adapters.sglang.sending import Sending
sender = vars(tokenizer.manager)["_shmtransport_sender"]
def by_handle(tensor):
    return Sending(sender).pointer(sender.stage(tensor), None, ShmPointerMMData)
"""
MADE: Final = {STOCK: "ShmPointerMMData(tensor)", HANDLE: "by_handle(tensor)"}


class Transfer(NamedTuple):
    """What one took on either side."""

    publish_ms: float
    receive_ms: float

    @property
    def ms(self) -> float:
        """Both sides."""
        return self.publish_ms + self.receive_ms


def by_pointer(two: World, way: str, seed: int, nbytes: int) -> Transfer:
    """One pointer, made, pickled, and materialized in each rank; raises `AssertionError` for other bytes."""
    two.tokenizer.run(f"tensor = pixels({seed}, {nbytes})")
    began_s, wire, ended_s = two.tokenizer.ask(f"(time.monotonic(), pickle.dumps({MADE[way]}), time.monotonic())")
    took_s = [0.0] * len(two.ranks)
    for step in ("pointer = pickle.loads(wire)", "tensor = pointer.materialize()"):  # SGLang has a barrier between them
        for number, rank in enumerate(two.ranks):
            rank.run(
                f"import pickle; began_s = time.monotonic(); {step}; took_s = time.monotonic() - began_s", wire=wire
            )
            took_s[number] += rank.ask("took_s")
    expected = digest(pixels(seed, nbytes))
    for rank in two.ranks:
        assert rank.ask("digest(tensor)") == expected
        rank.run("del pointer, tensor")
    two.tokenizer.run("del tensor")
    return Transfer((ended_s - began_s) * 1e3, max(took_s) * 1e3)


def by_request(two: World, way: str, seed: int, nbytes: int) -> Transfer:
    """One request with one tensor; raises `AssertionError` if a rank has other bytes."""
    rid = f"r{seed}"
    two.tokenizer.run(f"tokenizer.manager._shmtransport_sender = {'None' if way == STOCK else 'sender'}")
    took_ms = _sent_and_received(two, rid, seed, nbytes)
    assert two.digests(rid) == [[digest(pixels(seed, nbytes))]] * len(two.ranks)
    two.release(rid)
    return took_ms


def _sent_and_received(two: World, rid: str, seed: int, nbytes: int) -> Transfer:
    two.tokenizer.run(f"request = tokenizer.request({rid!r}, [pixels({seed}, {nbytes})])")
    began_s, _, ended_s = two.tokenizer.ask("(time.monotonic(), tokenizer.send(request), time.monotonic())")
    two.tokenizer.run("del request")
    for rank in two.ranks:
        rank.start("ask", "rank.receive()")
    times = [rank.answer() for rank in two.ranks]
    receive_s = max(ended for _, ended in times) - max(began for began, _ in times)
    return Transfer((ended_s - began_s) * 1e3, receive_s * 1e3)


Experiment = Callable[[World, str, int, int], Transfer]
EXPERIMENTS: Final[dict[str, Experiment]] = {"pointer": by_pointer, "request": by_request}


def raced(two: World, experiment: Experiment, nbytes: int, rounds: int) -> dict[str, list[Transfer]]:
    """So many transfers of each way, by turns."""
    found: dict[str, list[Transfer]] = {STOCK: [], HANDLE: []}
    for number in range(WARM_UPS + rounds):
        for turn, (way, transfers) in enumerate(found.items()):
            took = experiment(two, way, 100 + 2 * number + turn, nbytes)
            if number >= WARM_UPS:
                transfers.append(took)
    return found


def row_of(experiment: str, found: dict[str, list[Transfer]]) -> dict[str, Any]:
    """Medians in milliseconds."""
    stock, ours = found[STOCK], found[HANDLE]
    row: dict[str, Any] = {"experiment": experiment, "rounds": len(stock)}
    for name, transfers in (("sglang", stock), ("handle", ours)):
        row[f"{name}_publish_ms"] = statistics.median(each.publish_ms for each in transfers)
        row[f"{name}_receive_ms"] = statistics.median(each.receive_ms for each in transfers)
        row[f"{name}_ms"] = statistics.median(each.ms for each in transfers)
    return {**row, "ratio": statistics.median(a.ms / b.ms for a, b in zip(stock, ours, strict=True))}


def measured(ranks: int, nbytes: int, rounds: int) -> list[dict[str, Any]]:
    """A row of each experiment."""
    with tempfile.TemporaryDirectory() as folder, world(Path(folder), ranks=ranks, started_by="pass") as two:
        for seed in range(20):
            _sent_and_received(two, f"r{seed}", seed, nbytes)
            two.release(f"r{seed}")
            if two.tokenizer.ask("tokenizer.is_on"):
                break
        two.tokenizer.run(PREPARED)
        return [row_of(name, raced(two, run, nbytes, rounds)) for name, run in EXPERIMENTS.items()]


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="SGLang's own pointer and a handle, by turns")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--nbytes", type=int, default=10_000_000)
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of the table")
    options = parser.parse_args()
    rows = measured(options.ranks, options.nbytes, options.rounds)
    if options.json:
        print(json.dumps({"machine": machine(), "ranks": options.ranks, "nbytes": options.nbytes, "rows": rows}))
        return
    print(machine())
    print(f"{options.nbytes / 1e6:g} MB, {options.ranks} ranks, {options.rounds} rounds by turns, medians in ms")
    for row in rows:
        for name in ("sglang", "handle"):
            parts = f"publish {row[f'{name}_publish_ms']:.2f}, receive {row[f'{name}_receive_ms']:.2f}"
            print(f"{row['experiment']:8} {name:7} {row[f'{name}_ms']:6.2f}   ({parts})")
        print(f"{row['experiment']:8} SGLang's way takes {row['ratio']:.1f} times as long")


if __name__ == "__main__":
    main()
