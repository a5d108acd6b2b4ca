"""Rounds of put, share, open and release between two processes, and what they leave behind: nothing.

    python bench/soak_rounds.py                 a million rounds, two to three minutes
    ROUNDS=60000 python bench/soak_rounds.py    fewer

Both processes are looked at after a tenth of the rounds (ROUNDS // 10, or SETTLED) and at the end: resident
memory, file descriptors, mappings, and the names in /dev/shm. Resident memory may grow by 1 MiB in between,
nothing else may grow at all. Prints one JSON object; the exit status says whether it held.

Caveats: resident memory is the kernel's VmRSS and includes the ring's pages, which are faulted in from the start.
It is read after a garbage collection. Handles travel in batches over a pipe, so this is no measure of speed.
"""

import gc
import json
import multiprocessing
import os
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from shmtransport import Handle, Reader, Ring

BATCH = 100
SIZES_NBYTES = (1 << 10, 4 << 10, 17 << 10, 70 << 10)
GROWTH_NBYTES = 1 << 20


def footprint() -> dict[str, int]:
    """Of this process, now. Looking takes memory too, an arena at most: what is read first does not count."""
    _footprint()
    return _footprint()


def _footprint() -> dict[str, int]:
    gc.collect()
    status = Path("/proc/self/status").read_text()
    resident = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
    return {
        "rss_nbytes": int(resident.split()[1]) << 10,
        "fds": len(os.listdir("/proc/self/fd")),
        "mappings": len(Path("/proc/self/maps").read_text().splitlines()),
    }


def read_all(ring_id: str, pipe: Connection) -> None:
    """The reader: opens each handle, looks at the tensor, lets it go; answers with how many it saw."""
    reader = Reader.join(ring_id, name="soak")
    pipe.send(reader.peer_id)
    while (message := pipe.recv_bytes()) != b"":
        if message == b"footprint":
            pipe.send(footprint())
            continue
        lengths, _, wires = message.partition(b"|")
        nbytes = int(lengths)
        tensor = None
        for at in range(0, len(wires), nbytes):
            tensor = reader.open(wires[at : at + nbytes])
            if tensor[0] != tensor[-1]:
                raise AssertionError("other bytes than were put")
        tensor = None
        pipe.send_bytes(b"done")
    reader.close()


def soak(rounds: int, settled: int) -> dict[str, object]:
    """Runs it; what both processes looked like after ``settled`` rounds and at the end."""
    here, there = multiprocessing.Pipe()
    started = time.monotonic()
    with Ring.create(capacity="64MiB", segment="16MiB", on_full="raise", name="soak") as ring:
        process = multiprocessing.get_context("spawn").Process(target=read_all, args=(ring.id, there))
        process.start()
        peer_id = here.recv()
        sources = [torch.full((nbytes,), number, dtype=torch.uint8) for number, nbytes in enumerate(SIZES_NBYTES)]
        looks: dict[int, dict[str, object]] = {}
        for done in range(0, rounds + 1, BATCH):
            if done in (settled, rounds):
                here.send_bytes(b"footprint")
                names = sorted(name for name in os.listdir("/dev/shm") if ring.id in name)
                looks[done] = {"writer": footprint(), "reader": here.recv(), "names": names}
            if done == rounds:
                break
            wires = []
            for number in range(BATCH):
                sent = ring.share(ring.put(sources[number % len(sources)]), peer_id)
                if not isinstance(sent, Handle):
                    raise AssertionError("inline")
                wires.append(bytes(sent))
            here.send_bytes(str(len(wires[0])).encode() + b"|" + b"".join(wires))
            if here.recv_bytes() != b"done":
                raise AssertionError("the reader said something else")
        here.send_bytes(b"")
        process.join(30)
        statistics = ring.statistics()
        processes = {"writes": statistics.writer.writes, "copied_nbytes": statistics.writer.copied_nbytes}
    before, after = looks[settled], looks[rounds]
    return {
        "rounds": rounds,
        "settled": settled,
        "seconds": round(time.monotonic() - started, 1),
        **processes,
        "before": before,
        "after": after,
        "left": [name for name in os.listdir("/dev/shm") if ring.id in name],
        "held": held(before, after),
    }


def held(before: dict[str, object], after: dict[str, object]) -> bool:
    """Whether nothing grew but resident memory, and that by at most 1 MiB."""
    for role in ("writer", "reader"):
        was, now = before[role], after[role]
        if not isinstance(was, dict) or not isinstance(now, dict):
            raise TypeError("a footprint is a dict")
        if now["rss_nbytes"] - was["rss_nbytes"] > GROWTH_NBYTES:
            return False
        if (was["fds"], was["mappings"]) != (now["fds"], now["mappings"]):
            return False
    return before["names"] == after["names"]


def main() -> int:
    rounds = int(os.environ.get("ROUNDS", "1000000")) // BATCH * BATCH
    settled = int(os.environ.get("SETTLED", rounds // 10)) // BATCH * BATCH
    result = soak(rounds, settled)
    print(json.dumps(result))
    return 0 if result["held"] and not result["left"] else 1


if __name__ == "__main__":
    sys.exit(main())
