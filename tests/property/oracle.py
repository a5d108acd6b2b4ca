"""What the shared state of a ring must be after each step, in plain Python: the block table, tickets and leases.

Written from the lease protocol, not from the C: it knows who holds a block by name, not by bit, and whom a
ticket waits for by name, not by index. Only a test oracle: it moves no bytes and trusts its caller to tell it
what happened, step by step, in one thread. Freed and settled here means at once; the core may take until its
next settling, so a comparison settles the core first.

What the core may choose freely (which entry, which place in a segment, which ticket) it tells the oracle, which
refuses what no rule allows.
"""

from dataclasses import dataclass, field
from enum import Enum
from typing import Final

WRITER: Final = "writer"

_LINE_NBYTES: Final = 64
_PAGE_NBYTES: Final = 4096
_PAGED_NBYTES: Final = 65536


class DisagreementError(AssertionError):
    """The core chose something that no rule allows."""


def expect(condition: bool, *said: object) -> None:
    """Raises `DisagreementError` with what ``said`` unless ``condition`` holds."""
    if not condition:
        raise DisagreementError(*said)


class Opening(Enum):
    """What comes of opening a handle."""

    TENSOR = "a tensor"
    STALE = "nobody holds the block"
    UNMAPPED = "its segment cannot be had any more"


@dataclass(eq=False)
class Block:
    """One generation of one entry."""

    entry: int
    generation: int
    segment: int
    offset: int
    nbytes: int
    holders: set[str] = field(default_factory=set)

    @property
    def unit(self) -> int:
        """What its start and its room are multiples of."""
        return _PAGE_NBYTES if self.nbytes >= _PAGED_NBYTES else _LINE_NBYTES

    @property
    def end(self) -> int:
        """First byte behind its room."""
        return self.offset + _round_up(self.nbytes, self.unit)


@dataclass(eq=False)
class Ticket:
    """One handle on its way to the processes in ``awaited``."""

    number: int
    sequence: int
    block: Block
    awaited: set[str]


@dataclass(eq=False)
class Process:
    """One attachment. It lives until its lock is free."""

    name: str
    index: int
    lives: bool = True
    closed: bool = False
    tensors: dict[Block, int] = field(default_factory=dict)
    tickets: list[Ticket] = field(default_factory=list)
    mapped: set[int] = field(default_factory=set)
    """Segments that it mapped as a reader."""
    unmappable: bool = False

    @property
    def may_open(self) -> bool:
        """Whether a handle for it may still be opened."""
        return self.lives and not self.closed

    def needs(self, block: Block) -> bool:
        """Whether its lease must cover ``block``: rule 15."""
        return block in self.tensors or any(ticket.block is block for ticket in self.tickets)


def _round_up(nbytes: int, unit: int) -> int:
    return -(-nbytes // unit) * unit


class Oracle:
    """A ring of ``capacity_nbytes`` with one segment and its writer alive.

    Segments of an ``anonymous`` ring are had from its living writer only.
    """

    def __init__(
        self, *, capacity_nbytes: int, segment_nbytes: int, entries: int, anonymous: bool, indices: int = 32
    ) -> None:
        self.capacity_nbytes = capacity_nbytes
        self.segment_nbytes = segment_nbytes
        self.anonymous = anonymous
        self.indices = indices
        self.segments: list[int] = []
        self.generations = [0] * entries
        self.live: dict[int, Block] = {}
        self.processes: dict[str, Process] = {WRITER: Process(WRITER, 0)}
        self.sequences: dict[tuple[int, int], int] = {}
        self.signed: dict[int, str] = {}
        """Rows of readers that neither closed nor were reaped, by index."""
        self._grow(1)

    # Processes

    def join(self, name: str) -> int:
        """Rule 5: the lowest free index, whose bit is out everywhere before it is used. Answers the index."""
        taken = {process.index for process in self.processes.values() if process.lives}
        index = min(set(range(1, self.indices)) - taken)
        self._clear_everywhere(index)
        self.processes[name] = Process(name, index, mapped=set(range(len(self.segments))))
        self.signed[index] = name
        self.settle()
        return index

    def kill(self, name: str) -> None:
        """Its lock is free; its bits stay."""
        process = self.processes[name]
        process.lives = False
        process.tensors.clear()
        process.tickets.clear()
        self.settle()

    def close(self, name: str) -> None:
        """It makes no call any more and is out of the table; it leaves with its last tensor and ticket."""
        process = self.processes[name]
        process.closed = True
        self.signed.pop(process.index, None)
        self.settle()

    def reap(self, by: str) -> int:
        """Rule 6; how many there were."""
        dead = [index for index, name in self.signed.items() if not self.processes[name].lives and name != by]
        for index in dead:
            self._clear_everywhere(index)
            del self.signed[index]
        return len(dead)

    def _clear_everywhere(self, index: int) -> None:
        for block in list(self.live.values()):
            for name in list(block.holders):
                if self.processes[name].index == index:
                    self._let_go(name, block)

    def _let_go(self, name: str, block: Block) -> None:
        block.holders.discard(name)
        if not block.holders:
            self.live.pop(block.entry, None)

    # Blocks

    def can_put(self, nbytes: int) -> bool:
        """Whether there is room, after growth up to the capacity and after reaping; does what it takes."""
        if self._fits(nbytes) or (self._has_entry() and self._grow(nbytes)):
            return True
        self.reap(WRITER)
        return self._fits(nbytes) or (self._has_entry() and self._grow(nbytes))

    def put(self, block: Block) -> None:
        """Where the core has put it; `can_put` was asked before."""
        expect(block.entry not in self.live, "a live entry was used again", block)
        expect(block.generation == self.generations[block.entry] + 1, "a generation is one more", block)
        expect(block.offset % block.unit == 0, "a block starts on a line, from 64 KiB on a page", block)
        expect(0 <= block.segment < len(self.segments), "no such segment", block)
        expect(block.end <= self.segments[block.segment], "a block crosses its segment's end", block)
        for other in self.live.values():
            apart = other.segment != block.segment or other.end <= block.offset or block.end <= other.offset
            expect(apart, "two live blocks overlap", block, other)
        self.generations[block.entry] = block.generation
        self.live[block.entry] = block
        block.holders = {WRITER}
        self.processes[WRITER].tensors[block] = 1

    def drop(self, name: str, block: Block) -> None:
        """One tensor over ``block`` less."""
        process = self.processes[name]
        process.tensors[block] -= 1
        if not process.tensors[block]:
            del process.tensors[block]
            self._release_if_unused(process, block)
        self.settle()

    def _release_if_unused(self, process: Process, block: Block) -> None:
        if not process.needs(block):
            self._let_go(process.name, block)

    def _has_entry(self) -> bool:
        return len(self.live) < len(self.generations)

    def _fits(self, nbytes: int) -> bool:
        """Whether some hole between the live blocks is large enough: neighbours that were freed are one hole."""
        wanted = Block(0, 0, 0, 0, nbytes)
        for segment, size in enumerate(self.segments):
            start = 0
            inside = sorted((block.offset, block.end) for block in self.live.values() if block.segment == segment)
            for offset, end in [*inside, (size, size)]:
                if _round_up(start, wanted.unit) + wanted.end <= offset:
                    return self._has_entry()
                start = end
        return False

    def _grow(self, nbytes: int) -> bool:
        left = self.capacity_nbytes - sum(self.segments)
        needed = _round_up(nbytes, _PAGE_NBYTES)
        if needed > left:
            return False
        self.segments.append(max(needed, min(self.segment_nbytes, left)))
        return True

    # Handles

    def share(self, sender: str, block: Block, readers: set[str], number: int, sequence: int) -> None:
        """Rule 11; `reachable` was asked before."""
        process = self.processes[sender]
        place = (process.index, number)
        expect(all(ticket.number != number for ticket in process.tickets), "an open ticket was taken again", place)
        expect(sequence > self.sequences.get(place, 0), "a sequence goes on and never restarts", place, sequence)
        self.sequences[place] = sequence
        process.tickets.append(Ticket(number, sequence, block, set(readers)))

    def reachable(self, readers: set[str]) -> bool:
        """Whether all of them are in the reader table, and map what they are sent."""
        processes = [self.processes[name] for name in readers]
        return all(process.may_open and not process.unmappable for process in processes)

    def open(self, name: str, block: Block, sender: str, sequence: tuple[int, int]) -> Opening:
        """Rule 13: a lease, and the ticket (number, sequence) acknowledged; or the handle is stale; or rule 23."""
        if self.live.get(block.entry) is not block:
            return Opening.STALE
        process = self.processes[name]
        maps = name == WRITER or block.segment in process.mapped or not self.anonymous or self.processes[WRITER].lives
        if maps:
            process.mapped.add(block.segment)
            block.holders.add(name)
            process.tensors[block] = process.tensors.get(block, 0) + 1
        else:
            process.unmappable = True
        ticket = self.ticket(sender, sequence)
        if ticket is not None:
            ticket.awaited.discard(name)
        self.settle()
        return Opening.TENSOR if maps else Opening.UNMAPPED

    def revoke(self, sender: str, sequence: tuple[int, int], readers: set[str] | None) -> bool | None:
        """Rule 17, for some readers or all: whether there was anything left to take back; None if only from the
        dead, who may or may not have been noticed.
        """
        ticket = self.ticket(sender, sequence)
        taken = set[str]() if ticket is None else ticket.awaited & (readers or ticket.awaited)
        answer = any(self.processes[name].may_open for name in taken) or (None if taken else False)
        if ticket is not None:
            ticket.awaited -= taken
        self.settle()
        return answer

    def ticket(self, sender: str, sequence: tuple[int, int]) -> Ticket | None:
        """The open ticket (number, sequence) of a living sender."""
        found = (t for t in self.processes[sender].tickets if (t.number, t.sequence) == sequence)
        return next(found, None)

    def settle(self) -> None:
        """Rule 16, and whoever has closed and holds nothing more leaves, until nothing changes."""
        changed = True
        while changed:
            changed = False
            for process in self.processes.values():
                for ticket in list(process.tickets):
                    if not any(self.processes[name].may_open for name in ticket.awaited):
                        process.tickets.remove(ticket)
                        self._release_if_unused(process, ticket.block)
                if process.lives and process.closed and not process.tensors and not process.tickets:
                    process.lives = False
                    changed = True

    # What the core must show

    def words(self) -> list[int]:
        """Every word of the block table."""
        words = [generation << 32 for generation in self.generations]
        for entry, block in self.live.items():
            for name in block.holders:
                words[entry] |= 1 << self.processes[name].index
        return words

    def used_nbytes(self) -> int:
        """What the allocator has given out."""
        return sum(block.end - block.offset for block in self.live.values())
