"""The names of one ring in /dev/shm, and the locks that say who may unlink them, as an explicit-state model.

A writer creates a ring, grows it and exits; joiners open, join and leave it; reapers (the next start, the
last reader out, the command line) unlink what a dead writer left; a sweeper unlinks data names without a
control name. All but the sweeper, which holds nothing, may be killed between any two steps. What must hold in
every state that can be reached:

* no name of a living ring is unlinked;
* a reader that has joined can map every data segment that it gets a handle for;
* nobody touches memory that the file does not have yet;
* no name stays for ever: somebody who will unlink it can still find it.

    python docs/model/names.py joiners=2 reapers=2 kills=2 without=all-bytes

Rules carry the numbers of docs/protocol.md.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from explore import Move, Result, Rule, main, replaced, search


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much of everything one exploration allows. The defaults are the small bound that the tests run."""

    joiners: int = 2
    reapers: int = 2
    kills: int = 2


SIZE_CHECK: Final = Rule(5, "size-check", "a joiner leaves a control segment without its size alone")
VERSION_LAST: Final = Rule(5, "version-last", "the creator stores the version after all else")
LINK_CHECK: Final = Rule(5, "link-check", "a joiner with its lock requires the control name")
WRITER_CHECK: Final = Rule(5, "writer-check", "a joiner with its lock requires the writer's lock")
CREATOR_CHECK: Final = Rule(21, "creator-check", "a creator with its lock requires its control name")
CONTROL_FIRST: Final = Rule(21, "control-first", "the control name is created before any data name")
ALL_BYTES: Final = Rule(22, "all-bytes", "who unlinks holds all lock bytes")
ONE_CALL: Final = Rule(22, "one-call", "all bytes are taken by one call")
BYTE_0_LAST: Final = Rule(22, "byte-0-last", "where several calls take the bytes, byte 0 is the last of them")
EXIT_ALL_BYTES: Final = Rule(22, "exit-all-bytes", "a writer that unlinks at exit takes all other bytes")
CONTROL_LAST: Final = Rule(22, "control-last", "the control name is unlinked after all data names")
ORPHANS: Final = Rule(22, "orphans", "data names without a control name are unlinked")
LIST_THEN_LOOK: Final = Rule(22, "list-then-look", "a sweeper looks for the control name after its list")

RULES: Final = tuple(value for value in list(globals().values()) if isinstance(value, Rule))

# A name in /dev/shm. One that is unlinked never comes back: it has 128 random bits.
ABSENT, NAMED, UNLINKED = range(3)

# The writer. It holds byte 0 from LOCKED to EMPTIED, all bytes from CLOSING to EMPTIED.
START, NAMING, LOCKED, SIZED, FILLED, LIVE, GROWN, CLOSING, EMPTIED, GONE = range(10)

# A joiner: OUT, with the control segment open, with its byte locked, joined, or in a state that must not be.
OUT, OPENED, CHECKING, JOINED, LEFT, UNMAPPABLE, SIGBUS = range(7)

# A reaper. WATCHING again and again, as there is always a next start; LOCKING only without ONE_CALL.
WATCHING, FOUND, LOCKING, HOLDING, HALFWAY = range(5)


class Joiner(NamedTuple):
    stage: int
    mapped: tuple[bool, bool]  # by data segment


class Sweeper(NamedTuple):
    """`control_gone` is what it saw, None before it looked; `listed` likewise."""

    control_gone: bool | None
    listed: tuple[bool, bool] | None


class State(NamedTuple):
    control: int
    sized: bool
    version: bool
    data_names: tuple[int, int]  # one at the start, one by growth
    locks: tuple[str, ...]  # who holds byte 0, the writer's, and each joiner's; '' for nobody
    writer: int
    joiners: tuple[Joiner, ...]
    reapers: tuple[int, ...]
    sweeper: Sweeper
    kills: int

    def dropped(self, who: str) -> State:
        """`who` has closed all its descriptions, or was killed."""
        return self._replace(locks=tuple("" if holder == who else holder for holder in self.locks))

    def unlinked(self) -> State:
        """All data names that there are, found by their prefix, are unlinked."""
        first, second = (UNLINKED if name == NAMED else name for name in self.data_names)
        return self._replace(data_names=(first, second))

    def joiner(self, i: int, stage: int, mapped: tuple[bool, bool] = (False, False)) -> State:
        return self._replace(joiners=replaced(self.joiners, i, Joiner(stage, mapped)))

    def reaper(self, i: int, stage: int) -> State:
        return self._replace(reapers=replaced(self.reapers, i, stage))


class Names:
    """The model within `bounds`, without the rules in `removed`."""

    def __init__(self, bounds: Bounds, removed: Collection[Rule]) -> None:
        self.bounds = bounds
        self.removed = frozenset(removed)

    def keeps(self, rule: Rule) -> bool:
        return rule not in self.removed

    def initial(self) -> State:
        return State(
            control=ABSENT,
            sized=False,
            version=False,
            data_names=(ABSENT, ABSENT),
            locks=("",) * (1 + self.bounds.joiners),
            writer=START,
            joiners=(Joiner(OUT, (False, False)),) * self.bounds.joiners,
            reapers=(WATCHING,) * self.bounds.reapers,
            sweeper=Sweeper(None, None),
            kills=0,
        )

    def moves(self, s: State) -> Iterator[Move]:
        yield from self.create(s)
        yield from self.exit(s)
        for i in range(self.bounds.joiners):
            yield from self.join(s, i)
        for i in range(self.bounds.reapers):
            yield from self.reap(s, i)
        yield from self.sweep(s)
        yield from self.kill(s)

    def create(self, s: State) -> Iterator[Move]:
        """Rule 21, one system call or store at a time; then growth."""
        first = s._replace(data_names=(NAMED, s.data_names[1]))
        if s.writer == START:
            if self.keeps(CONTROL_FIRST) or s.data_names[0] != ABSENT:
                yield Move("W creates the control name", s._replace(control=NAMED, writer=NAMING))
            else:
                yield Move("W creates data name 1", first)
        elif s.writer == NAMING:
            if not s.locks[0]:
                yield Move("W locks byte 0", s._replace(locks=replaced(s.locks, 0, "W"), writer=LOCKED))
            elif self.keeps(CREATOR_CHECK):
                yield Move("W finds byte 0 locked: takes another name", s._replace(writer=GONE))
        elif s.writer == LOCKED:
            if s.control == UNLINKED and self.keeps(CREATOR_CHECK):
                yield Move("W finds its name gone: takes another one", s._replace(writer=GONE).dropped("W"))
            else:
                sized = s._replace(sized=True, version=not self.keeps(VERSION_LAST), writer=SIZED)
                yield Move("W gives the control segment its size", sized)
        elif s.writer == SIZED:
            filled = first if s.data_names[0] == ABSENT else s
            yield Move("W creates data name 1", filled._replace(writer=FILLED))
        elif s.writer == FILLED:
            yield Move("W stores the version", s._replace(version=True, writer=LIVE))
        elif s.writer == LIVE:
            yield Move("W grows: data name 2", s._replace(data_names=(s.data_names[0], NAMED), writer=GROWN))

    def exit(self, s: State) -> Iterator[Move]:
        """Just go, the names are a reaper's; or unlink, all other bytes taken on a second description."""
        if s.writer in (LIVE, GROWN):
            yield Move("W exits", s._replace(writer=GONE).dropped("W"))
            if not self.keeps(EXIT_ALL_BYTES):
                yield Move("W takes no lock at its exit", s._replace(writer=CLOSING))
            elif not any(s.locks[1:]):
                yield Move("W locks all other bytes", s._replace(locks=("W",) * len(s.locks), writer=CLOSING))
        elif s.writer == CLOSING:
            yield Move(*self.unlink_one_half("W", s._replace(writer=EMPTIED), first=True))
        elif s.writer == EMPTIED:
            label, unlinked = self.unlink_one_half("W", s._replace(writer=GONE), first=False)
            yield Move(f"{label}, exits", unlinked.dropped("W"))

    def unlink_one_half(self, who: str, s: State, *, first: bool) -> tuple[str, State]:
        if first == self.keeps(CONTROL_LAST):
            return f"{who} unlinks all data names", s.unlinked()
        return f"{who} unlinks the control name", s._replace(control=UNLINKED)

    def join(self, s: State, i: int) -> Iterator[Move]:
        """Rule 5, and a reader's life afterwards."""
        stage, mapped = s.joiners[i]
        me, byte = f"J{i}", i + 1
        if stage == OUT and s.control == NAMED:
            yield Move(f"{me} opens the control segment", s.joiner(i, OPENED))
        elif stage == OPENED:
            if not s.sized:
                yield Move(f"{me} reads the header", s.joiner(i, OUT if self.keeps(SIZE_CHECK) else SIGBUS))
            elif not s.version:
                yield Move(f"{me} finds no version yet", s.joiner(i, OUT))
            elif s.locks[byte]:
                yield Move(f"{me} finds its byte locked", s.joiner(i, OUT))
            else:
                locked = s._replace(locks=replaced(s.locks, byte, me))
                yield Move(f"{me} locks its byte", locked.joiner(i, CHECKING))
        elif stage == CHECKING:
            name_gone = s.control == UNLINKED and self.keeps(LINK_CHECK)
            if name_gone or (not s.locks[0] and self.keeps(WRITER_CHECK)):
                yield Move(f"{me} finds the ring dead", s.joiner(i, OUT).dropped(me))
            else:
                yield Move(f"{me} has joined", s.joiner(i, JOINED))
        elif stage == JOINED:
            for n, name in enumerate(s.data_names):
                if not mapped[n] and (n == 0 or name != ABSENT):
                    maps = s.joiner(i, JOINED, (n == 0 or mapped[0], n == 1 or mapped[1]))
                    maps = maps if name == NAMED else s.joiner(i, UNMAPPABLE)
                    yield Move(f"{me} maps segment {n + 1}", maps)
            yield Move(f"{me} leaves", s.joiner(i, LEFT).dropped(me))

    def reap(self, s: State, i: int) -> Iterator[Move]:
        """Rule 22: the next start, the last reader out (after its own unlock), the command line."""
        stage, me = s.reapers[i], f"Q{i}"
        if stage == WATCHING and s.control == NAMED:
            yield Move(f"{me} opens the control segment", s.reaper(i, FOUND))
        elif stage == FOUND:
            bytes_wanted = s.locks if self.keeps(ALL_BYTES) else s.locks[:1]
            if any(bytes_wanted):
                yield Move(f"{me} finds a byte locked", s.reaper(i, WATCHING))
            elif self.keeps(ONE_CALL):
                locks = (me,) * len(bytes_wanted) + s.locks[len(bytes_wanted) :]
                holding = s.reaper(i, HOLDING)._replace(locks=locks)
                yield Move(f"{me} locks {len(bytes_wanted)} of {len(locks)} bytes", holding)
            else:
                yield Move(f"{me} begins to lock", s.reaper(i, LOCKING))
        elif stage == LOCKING:
            byte = s.locks.count(me)
            if self.keeps(BYTE_0_LAST):
                byte = len(s.locks) - 1 - byte
            if me in s.locks and byte in (-1, len(s.locks)):
                yield Move(f"{me} has all bytes", s.reaper(i, HOLDING))
            elif s.locks[byte]:
                yield Move(f"{me} finds byte {byte} locked", s.reaper(i, WATCHING).dropped(me))
            else:
                yield Move(f"{me} locks byte {byte}", s._replace(locks=replaced(s.locks, byte, me)))
        elif stage == HOLDING:
            yield Move(*self.unlink_one_half(me, s.reaper(i, HALFWAY), first=True))
        elif stage == HALFWAY:
            label, unlinked = self.unlink_one_half(me, s.reaper(i, WATCHING), first=False)
            yield Move(f"{label}, drops the locks", unlinked.dropped(me))

    def sweep(self, s: State) -> Iterator[Move]:
        """Orphans: nothing is locked, so all rests on the order of the names' lives and of the two looks."""
        control_gone, listed = s.sweeper
        if not self.keeps(ORPHANS):
            return
        names = (s.data_names[0] == NAMED, s.data_names[1] == NAMED)
        looked = s._replace(sweeper=Sweeper(s.control != NAMED, listed))
        look = Move("sweeper looks for the control name", looked)
        lists = Move("sweeper lists the data names", s._replace(sweeper=Sweeper(control_gone, names)))
        if control_gone is None and listed is None:
            yield lists if self.keeps(LIST_THEN_LOOK) else look
        elif control_gone is None:
            yield look
        elif listed is None:
            yield lists
        else:
            first, second = (
                UNLINKED if control_gone and was_listed and name == NAMED else name
                for name, was_listed in zip(s.data_names, listed, strict=True)
            )
            swept = s._replace(data_names=(first, second), sweeper=Sweeper(None, None))
            label = "unlinks what it listed" if control_gone else "finds the control name"
            yield Move(f"sweeper {label}", swept)

    def kill(self, s: State) -> Iterator[Move]:
        if s.kills == self.bounds.kills:
            return
        killed = s._replace(kills=s.kills + 1)
        if s.writer not in (START, GONE):
            yield Move("KILL W", killed._replace(writer=GONE).dropped("W"))
        for i, (stage, _) in enumerate(s.joiners):
            if stage in (OPENED, CHECKING, JOINED):
                yield Move(f"KILL J{i}", killed.joiner(i, LEFT).dropped(f"J{i}"))
        for i, stage in enumerate(s.reapers):
            if stage != WATCHING:
                yield Move(f"KILL Q{i}", killed.reaper(i, WATCHING).dropped(f"Q{i}"))

    def fault(self, s: State) -> str:
        if SIZED <= s.writer <= GROWN and UNLINKED in (s.control, *s.data_names):
            return "a name of a living ring is unlinked"
        for i, (stage, _) in enumerate(s.joiners):
            if stage == UNMAPPABLE:
                return f"J{i} has joined and cannot map a segment"
            if stage == SIGBUS:
                return f"J{i} touches memory that is not there"
        nobody_there = s.writer == GONE and not any(s.locks) and not self.keeps(ORPHANS)
        if nobody_there and NAMED in s.data_names and s.control != NAMED:
            return "a data name stays for ever: nobody finds it without the control name"
        return ""


def explore(bounds: Bounds, removed: Collection[Rule] = (), limit: int | None = None) -> Result:
    """Visit every state within `bounds`, without the rules in `removed`; stop at the first violation."""
    model = Names(bounds, removed)
    return search(model.initial(), model.moves, model.fault, limit)


if __name__ == "__main__":
    main(Bounds, RULES, explore)
