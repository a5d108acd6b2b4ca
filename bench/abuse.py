"""What becomes of shared memory when it runs out, and when everybody is killed: this project and its peers, abused.

Read this first:
* Two abuses: a /dev/shm of 8 MB into which more than fits is sent, and SIGKILL of every process in the middle of a
  transfer. `bench/abuses/` has them. They say nothing about speed, nor about a peer on the days when nothing fails.
* Each peer is used as its documentation says, with as many slots as the messages that are alive at once (4 of 3 MB);
  `bench/peers/` has the choices. Each brings verified messages over, in the same set-up, before anything is done to it.
* "Left at once" is after a death of all, helpers too, as when a container or cgroup is ended. Python's resource
  tracker and torch_shm_manager clean up behind their clients if they outlive them: "left if the helper lives".
* "Left after the next start": the peer was started once more under the same names, and ended in order. Peers whose
  documentation has a call that removes a known name (kickmsg, global-buffer) call it at their start.
* Files are counted with their memory: each semaphore of a `multiprocessing.Queue` is a page. iceoryx2's last page is a
  file of its version's, which an orderly end leaves too. Where everybody dies in mid-copy is up to the scheduler, so
  peers that make a segment a message differ by one or two of them from run to run.

    make bench-env                                     .venv-bench, with every peer that installs
    .venv-bench/bin/python bench/abuse.py              a table, with the machine
    .venv-bench/bin/python bench/abuse.py --json       the list alone, one object a peer and backing
    .venv-bench/bin/python bench/abuse.py --peer shmtransport --peer SharedMemory

Exit status 1 if this project breaks its promise: no SIGBUS, no hang, an error or everything delivered, nothing
left by a memfd backing at once nor by a named one after the next start. A peer that is missing is a row that says why.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]  # where Python was told to run this file it finds its folder only

from bench import peers  # noqa: E402
from bench.abuses import arena  # noqa: E402
from bench.machine import machine  # noqa: E402
from bench.peers.peer import Peer  # noqa: E402

OWN = "shmtransport"
ABUSED = (
    OWN,
    "iceoryx2",
    "kickmsg",
    "momentumx",
    "global-buffer",
    "py-sharedmemory",
    "SharedMemory",
    "torch.multiprocessing",
)
LEFT_OUT = {"Ray": "on two busy cores a start took a minute and eight processes, and saved a token in the home folder"}
"""Peers that are not driven, and why."""
Row = dict[str, Any]

COLUMNS = {
    "peer": "peer",
    "backing": "backing",
    "error": "/dev/shm of 8 MB",
    "delivered": "delivered",
    "bytes_left_at_once": "left at once",
    "bytes_left_if_helper_lives": "left if the helper lives",
    "bytes_left": "left after the next start",
    "next_start": "next start",
}


def row_of(peer: type[Peer], backing: str) -> Row:
    """Everything that was done to one peer on one backing, the schema's five keys first."""
    subject = arena.Subject.of(peer, backing)
    killed = arena.run_in("killed_together", subject)
    filled = arena.run_in("small_shared_memory", subject)
    hung = killed.get("no_transfer") or killed.get("hung") or filled.get("hung")
    return {
        "peer": peer.name,
        "backing": backing,
        "sigbus": filled.get("sigbus"),
        "error": hung or filled.get("error"),
        "bytes_left": killed.get("bytes_left"),
        "bytes_left_at_once": killed.get("bytes_left_at_once"),
        "bytes_left_if_helper_lives": killed.get("bytes_left_if_helper_lives"),
        "names_left": killed.get("names_left"),
        "next_start": killed.get("next_start"),
        "sent": filled.get("sent"),
        "delivered": filled.get("delivered"),
        "usable_afterwards": filled.get("usable_afterwards"),
        "version": peer.version(),
        "helper": peer.helper,
    }


def missing(name: str, reason: str) -> Row:
    """The row of a peer that was not abused."""
    return {"peer": name, "backing": None, "sigbus": None, "error": f"not measured: {reason}", "bytes_left": None}


def rows_of(name: str) -> list[Row]:
    """A row for each backing of a peer."""
    if name in LEFT_OUT:
        return [missing(name, LEFT_OUT[name])]
    try:
        peer = peers.peer_type(name)
    except ImportError as error:
        return [missing(name, f"not installed ({error})")]
    return [row_of(peer, backing) for backing in peers.PLACES[name].backings]


def broken_promises(rows: list[Row]) -> list[str]:
    """What this project's rows say that they must not, in words."""
    broken = []
    for row in rows:
        if row["peer"] != OWN:
            continue
        refused_in_type = str(row["error"]).startswith("OutOfSharedMemoryError: ")
        expected = {
            "sigbus is false": row["sigbus"] is False,
            "a full /dev/shm is OutOfSharedMemoryError, or nothing": row["error"] is None or refused_in_type,
            "what was sent is delivered": row.get("sent") == row.get("delivered") != 0,
            "a message goes through afterwards": row.get("usable_afterwards") is True,
            "the next start works": row.get("next_start") == "works",
            "bytes_left is 0": row["bytes_left"] == 0,
            "memfd leaves 0 bytes at once": row["backing"] != "memfd" or row.get("bytes_left_at_once") == 0,
        }
        failed = [what for what, holds in expected.items() if not holds]
        broken += [f"{OWN} ({row['backing']}): expected that {what}: {row}" for what in failed]
    return broken


def shown(row: Row, column: str) -> str:
    value = row.get(column)
    if column.startswith("bytes_left"):
        return "" if value is None else f"{value:,}"
    if column == "peer" and row.get("version"):
        return f"{value} {row['version']}"
    if column == "error":
        return str(value or "nothing happens")
    if column == "delivered":
        return "" if value is None else f"{value} of {arena.TERMS.alive}"
    return str(value or "")


def as_table(rows: list[Row]) -> str:
    """Markdown."""
    lines = [list(COLUMNS.values()), ["---"] * len(COLUMNS)]
    lines += [[shown(row, column) for column in COLUMNS] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> int:
    names = [*ABUSED, *LEFT_OUT]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON list and nothing else")
    parser.add_argument("--peer", action="append", choices=names, help="only this one; may be given again")
    arguments = parser.parse_args()
    print(machine(), file=sys.stderr)
    rows: list[Row] = []
    for name in arguments.peer or names:
        print(f"{name} …", file=sys.stderr)
        rows += rows_of(name)
    print(json.dumps(rows) if arguments.json else as_table(rows))
    broken = broken_promises(rows)
    for promise in broken:
        print(promise, file=sys.stderr)
    return bool(broken)


if __name__ == "__main__":
    sys.exit(main())
