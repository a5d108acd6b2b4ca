"""This project and its rivals, with the same requests on the same machine: how many times as long does each take?

Read this first:
* Timed is one request on its way from one process to another that waits for it: from the call that sends until the
  receiver has its tensors, by CLOCK_MONOTONIC in both. Nobody reads the bytes then; a peer whose receiver maps shared
  memory leaves that to whoever uses them. Afterwards, untimed, every byte is compared.
* A ratio is a rival's time over this project's, 8 for eight times as long: the median of transfers that lie next to
  each other, rival and this project by turns. Machines differ, and this one may be shared: quote ratios.
* Each rival runs in the mode that its documentation, or the engine that uses it, would choose; `bench/peers/` has the
  choices. "floor" is this machine's best copy into warm shared memory and a bare message, without any safety; "bare
  message" and "shmtransport in place" copy nothing while the clock runs, since the tensors are there already.
* The first request of each pair, with its new processes, is its cold start and told apart. CPU seconds and page faults
  are those of both processes and all their threads, helpers left out (Ray's store, torch's daemon).
* Senders and receivers that poll burn a CPU while they wait, which nobody else wants here.

    make bench-env                                        the environments, with every rival that installs
    .venv-bench/bin/python bench/compare.py --quick       9.6 MB and 10 x 9.6 MB, every rival; under five minutes
    .venv-bench/bin/python bench/compare.py               every payload
    .venv-bench/bin/python bench/compare.py --json        the list alone
    .venv-bench/bin/python bench/compare.py --rival vLLM --payload "10 x 9.6 MB" --rounds 51

Exit status 1 if a rival that is installed brought other bytes, or none at all.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]  # where Python was told to run this file it finds its folder only

from bench import payloads, peers, racing  # noqa: E402
from bench.aims import lines  # noqa: E402
from bench.machine import machine  # noqa: E402
from bench.payloads import Payload  # noqa: E402
from bench.peers.pair import Failure, Pair  # noqa: E402
from bench.peers.peer import SHARED_MEMORY  # noqa: E402
from bench.racing import OWN, Race, Rival, Start  # noqa: E402

Row = dict[str, Any]
QUICK_ROUNDS = 9
ROUNDS = 41
LONG_NBYTES = 100_000_000
"""A request above this takes most of a second to make and to verify, so it is raced a third as often."""
OWN_RIVAL = Rival(OWN, "posix")


def row_of(rival: Rival, result: Race, start: Start) -> Row:
    """The schema's keys first."""
    seconds = sorted(transfer.seconds for transfer in result.rival)
    median = statistics.median(seconds)
    payload = result.payload
    return {
        "rival": rival.label,
        "payload": payload.name,
        "payload_nbytes": payload.nbytes,
        "tensors": payload.tensors,
        "median_ms": median * 1e3,
        "p99_ms": seconds[min(len(seconds) - 1, int(0.99 * len(seconds)))] * 1e3,
        "gbps": payload.nbytes / median / 1e9,
        "cpu_seconds": statistics.median(transfer.cpu_seconds for transfer in result.rival),
        "faults": int(statistics.median(transfer.faults for transfer in result.rival)),
        "ratio_to_shmtransport": result.ratio,
        "verified": True,
        "rounds": len(seconds),
        "shmtransport_median_ms": statistics.median(transfer.seconds for transfer in result.own) * 1e3,
        "start_seconds": start.seconds,
        "first_ms": start.first.seconds * 1e3,
        "version": start.version,
    }


def missing(rival: Rival, payload: Payload, reason: str) -> Row:
    """The row of a rival that was not timed, or not to the end."""
    return {
        "rival": rival.label,
        "payload": payload.name,
        "payload_nbytes": payload.nbytes,
        "tensors": payload.tensors,
        "median_ms": None,
        "ratio_to_shmtransport": None,
        "verified": False,
        "reason": reason,
    }


def is_absent(reason: str) -> bool:
    """Whether it is not installed, which is no failure."""
    return reason.startswith(("not installed", "ModuleNotFoundError", "ImportError"))


def rows_of(rival: Rival, group: Sequence[Payload], own: Pair | None, rounds: int) -> Iterator[Row]:
    """A row a payload."""
    done = 0
    python = peers.PLACES[rival.name].python
    try:
        if not python.exists():
            raise FileNotFoundError(f"not installed: there is no {python.relative_to(ROOT)}")
        with racing.started(rival, group) as (two, start):
            for payload in group:
                counted = max(1, rounds // 3) if payload.nbytes > LONG_NBYTES else rounds
                yield row_of(rival, racing.race(two, own, payload, counted), start)
                done += 1
    except (Failure, FileNotFoundError) as error:
        for payload in group[done:]:
            yield missing(rival, payload, str(error))


def compare(chosen: Sequence[Rival], group: Sequence[Payload], rounds: int) -> Iterator[Row]:
    """Every rival against one pair of this project's, which lives as long."""
    with ExitStack() as stack:
        own = stack.enter_context(racing.started(OWN_RIVAL, group))[0]
        for rival in chosen:
            print(f"{rival.label}: {', '.join(payload.name for payload in group)}", file=sys.stderr)
            yield from rows_of(rival, group, own, rounds)


def as_table(rows: Sequence[Row]) -> str:
    """Markdown, the fastest first."""
    lines = ["| rival | payload | median ms | p99 ms | GB/s | CPU ms | faults | first ms | times shmtransport |"]
    lines.append("|---" * 9 + "|")
    for row in sorted(rows, key=lambda row: (row["payload_nbytes"], row["payload"], row["median_ms"] or 1e9)):
        if row["median_ms"] is None:
            lines.append(f"| {row['rival']} | {row['payload']} | {row['reason']} |" + " |" * 6)
            continue
        lines.append(
            f"| {row['rival']} | {row['payload']} | {row['median_ms']:.3f} | {row['p99_ms']:.3f} | {row['gbps']:.1f} "
            f"| {row['cpu_seconds'] * 1e3:.2f} | {row['faults']} | {row['first_ms']:.1f} "
            f"| {row['ratio_to_shmtransport']:.2f} |"
        )
    return "\n".join(lines)


def as_aims(rows: Sequence[Row]) -> str:
    """One a line: what was asked for, what was measured, whether that is enough."""
    return "\n".join(": ".join(line) for line in lines({"compare": rows}))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two payloads and fewer rounds")
    parser.add_argument("--json", action="store_true", help="print one JSON list and nothing else")
    parser.add_argument("--rival", action="append", choices=list(peers.PLACES), help="only this one, and again")
    parser.add_argument("--payload", action="append", choices=list(payloads.BY_NAME), help="only this one, and again")
    parser.add_argument("--rounds", type=int, help="counted transfers of each payload; a third for those above 100 MB")
    arguments = parser.parse_args()
    chosen = racing.rivals(arguments.rival or list(peers.PLACES))
    names = arguments.payload or (payloads.QUICK if arguments.quick else list(payloads.BY_NAME))
    rounds = arguments.rounds or (QUICK_ROUNDS if arguments.quick else ROUNDS)
    print(f"{machine()}; {SHARED_MEMORY}", file=sys.stderr)
    rows: list[Row] = []
    for group in racing.groups([payloads.BY_NAME[name] for name in names]):
        rows += compare(chosen, group, rounds)
    print(json.dumps(rows) if arguments.json else as_table(rows))
    print(as_aims(rows), file=sys.stderr)
    return any(not row["verified"] and not is_absent(row["reason"]) for row in rows)


if __name__ == "__main__":
    sys.exit(main())
