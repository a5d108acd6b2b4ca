"""Rounds of the soak: a few random deeds while everybody is busy, and then a look whether the world is whole.

A round is 3 to 6 deeds, 1 to 10 ms apart, in the midst of the traffic of all members:

    kill       SIGKILL
    pause      SIGSTOP, until the round's last deed is done
    hoard      a member lets go of nothing any more, so rings fill up
    start      a dead member is started, and comes up while the others work
    stillborn  one is started and killed 0 to 20 ms later: while it creates its ring, or joins the others'

Then the paused go on, all come to rest, the dead are started, all take in what is on its way and let everything go; the
rings of the dead are left. Now each living ring must be empty, and nothing may be left of all others: no name, in
/dev/shm or of a socket, and no memory that a member still maps.

The deeds of a round follow from the seed, its number and the backing. When exactly a deed finds whom at what is up to
the scheduler.
"""

import contextlib
import os
import random
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from shmtransport import sweep
from tests.soak.member import Plan
from tests.soak.world import Findings, World
from tests.support import SHARED_MEMORY, segment_names, segments_mapped_by_strangers

_RING_ID = re.compile("[0-9a-f]{32}")

WRITERS, FORWARDERS, READERS = ("w0", "w1"), ("f0", "f1"), ("r0", "r1", "r2")
MEMBERS = (*WRITERS, *FORWARDERS, *READERS)

# Names go when the last one is out or by a sweep; a sweep elsewhere, or a dying process, may hold one up. Memory goes
# with the last ticket: who left with one open has a thread that looks every 50 ms, when it gets a core.
GONE_S = 5.0


class Deed(NamedTuple):
    after_s: float
    what: str
    name: str


def deeds(rng: random.Random) -> Iterator[Deed]:
    """One round's. Nobody is killed twice without having been started between."""
    alive = list(MEMBERS)
    for _ in range(rng.randint(3, 6)):
        dead = sorted(set(MEMBERS) - set(alive))
        ways = {"kill": 3, "pause": 2, "hoard": 2} if alive else {}
        ways |= {"start": 1, "stillborn": 1} if dead else {}
        what = rng.choices(list(ways), list(ways.values()))[0]
        name = rng.choice(dead if what in ("start", "stillborn") else alive)
        if what == "kill":
            alive.remove(name)
        elif what == "start":
            alive.append(name)
        yield Deed(rng.uniform(0.001, 0.010), what, name)


class Soak:
    """``rounds`` rounds on one backing; `run` does them."""

    def __init__(self, seed: int, backing: str, rounds: int, findings: Findings, deadline_s: float, run: str) -> None:
        self._seed = f"{seed}:{backing}"
        self._backing = backing
        self._rounds = rounds
        self._findings = findings
        self._run = run
        self._back_s = deadline_s / 2  # before the member is taken for hung
        self._before = segment_names()
        self._world = World(MEMBERS, self._plan, findings, deadline_s)
        self.faults: dict[str, str] = {}
        """Member to fault (faults.py): planted where it is started first."""

    def run(self) -> None:
        world = self._world
        try:
            self._come_to_rest()
            for number in range(self._rounds):
                self._findings.place = f"{self._backing}, round {number}"
                self._round(random.Random(f"{self._seed}:{number}"))
                self._findings.rounds += 1
            self._findings.place = f"{self._backing}, the end"
            world.end()
            self._count_left(living=[])
        finally:
            world.kill_all()

    def _round(self, rng: random.Random) -> None:
        world = self._world
        world.working = True
        world.tell("go")
        for deed in deeds(rng):
            world.listen(deed.after_s)
            if deed.what == "kill":
                world.kill(deed.name)
            elif deed.what == "pause":
                world.pause(deed.name)
            elif deed.what == "hoard":
                world.tell("hoard", deed.name)
            else:
                world.start(deed.name)
                if deed.what == "stillborn":
                    world.listen(rng.uniform(0, 0.020))
                    world.kill(deed.name)
        world.listen(0.005)
        world.resume()
        world.working = False
        self._come_to_rest()

    def _come_to_rest(self) -> None:
        """All are alive again, everything is let go, and must be back."""
        world = self._world
        world.ask("rest")
        world.start_the_dead()
        for transfers in world.ask("let go").values():
            assert isinstance(transfers, int)
            self._findings.transfers += transfers
        world.tell("rings")
        for name, used_nbytes in world.ask("account").items():
            assert isinstance(used_nbytes, int)
            if used_nbytes:
                self._findings.leaked_nbytes += used_nbytes
                self._findings.tell(f"{used_nbytes} bytes of the ring of {name} are in use, and nobody should hold any")
        self._count_left(world.ring_ids())

    def _count_left(self, living: list[str]) -> None:
        """What there is of rings that are not ``living``: memory that a member keeps, and names."""
        deadline = time.monotonic() + GONE_S
        while kept := {
            name: nbytes for name, pid in self._world.pids().items() if (nbytes := _kept_nbytes(pid, living))
        }:
            if time.monotonic() > deadline:
                self._findings.leaked_nbytes += sum(kept.values())
                self._findings.tell(f"memory of rings that everybody has left is kept by {kept}")
                break
            time.sleep(0.001)
        while left := {name for name in segment_names() - self._before if not _is_of(name, living)}:
            sweep()
            left &= segment_names()
            left = left and left - segments_mapped_by_strangers()  # another run on this machine
            if not left:
                return
            if time.monotonic() > deadline:
                self._findings.leaked_nbytes += sum(map(_nbytes, left))
                self._findings.tell(f"left: {', '.join(sorted(left))}")
                self._before |= left
                return
            time.sleep(0.001)

    def _plan(self, name: str, starts: int) -> Plan:
        seed = f"{self._seed}:{name}:{starts}"
        rng = random.Random(seed)
        settings: dict[str, object] = {
            "capacity": rng.choice((2, 4, 6)) << 20,
            "segment": rng.choice((1, 2)) << 20,
            "entries": rng.choice((16, 64, 256)),
            "on_full": rng.choice(("inline", "block", "raise")),
            "timeout_s": 0.05,
            "backing": self._backing,
        }
        fault = self.faults.get(name) if starts == 0 else None
        return Plan(name, self._run, seed, name in WRITERS, name in FORWARDERS, settings, self._back_s, fault)


def _is_of(name: str, ring_ids: list[str]) -> bool:
    found = _RING_ID.search(name)
    return found is not None and found[0] in ring_ids


def _nbytes(name: str) -> int:
    """Of what has this name or path; one at least, for a socket is a leak too."""
    try:
        return max((SHARED_MEMORY / name).stat().st_size, 1)
    except FileNotFoundError:
        return 0


def _kept_nbytes(pid: int, living: list[str]) -> int:
    """Bytes of segments that a process maps or has a descriptor of, and that are not of the ``living`` rings."""
    process = Path("/proc", str(pid))
    kept = 0
    for line in (process / "maps").read_text().splitlines():
        if "shmt-" in line and not _is_of(line, living):
            begin, end = line.split()[0].split("-")
            kept += int(end, 16) - int(begin, 16)
    for fd in (process / "fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed by now
            if "shmt-" in os.readlink(fd) and not _is_of(os.readlink(fd), living):
                kept += fd.stat().st_size
    return kept
