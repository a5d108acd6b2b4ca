"""Attack: the control segment of a living ring is overwritten, word by word, with every byte value.

The attacker is a process of the same user that has joined the ring, or a stray pointer in one: it has the control
segment mapped for writing, as every reader must, and may store anything anywhere in it at any time. It cannot reach the
private memory of the others, nor their locks.

The victims are the writer and a reader, in the middle of their work. The word is overwritten again before each of their
steps, so that none of them finds what the step before it has mended. Whatever the word then says:

    no crash, no hang                every call returns, every error is one of shmtransport.errors
    nothing outside is read          a tensor that opens lies within the ring's mapped data segments
    the writer's own bytes hold      what the writer itself has a tensor over is never reused, for it trusts its
                                     private memory alone
    the bytes of a handle hold       unless the word is one of the block table: it says where a block lies, and whoever
                                     forges it makes a handle show another place of a segment
    nothing is lost for good         once the readers have left, every entry can be written again
    the end is orderly               close returns and the ring's names are gone
"""

import mmap
import os
import random
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import torch

from shmtransport import Handle, Reader, Ring, layout, segment
from shmtransport.config import BackingName
from shmtransport.tensors import Tensor
from tests.hostile.trials import Breach, BreachError, Mark, Outcome, attempt, trial
from tests.peers import join_as_if_another_process
from tests.support import segment_names, wait_until

ENTRIES: Final = 16
VALUES: Final = 256
SEGMENT_NBYTES: Final = 65536
TICKETS_OFFSET: Final = layout.ENTRIES_OFFSET - 8 * layout.INDICES * layout.TICKETS

# With every value of a word a tensor is put, shared, opened and released. If the word is none that anybody reads, the
# rest is done with some of its values only: every how many
_WHOLE_EVERY: Final = 16  # handles are forwarded and revoked, the dead reaped, statistics read
_JOIN_EVERY: Final = 64  # another reader joins and leaves
# and, whatever the word,
_FILL_EVERY: Final = 64  # the ring is filled to the brim, grown, and waited for


class Region(NamedTuple):
    """A part of the control segment, in words of 8 bytes."""

    name: str
    first: int
    words: int


REGIONS: Final = (
    Region("header", 0, 512),
    Region("row", 512, 64 * layout.INDICES),
    Region("size", 2560, layout.SEGMENTS),
    Region("ticket", TICKETS_OFFSET // 8, layout.TICKETS),  # the writer's
    Region("entry", layout.ENTRIES_OFFSET // 8, 8 * ENTRIES),
)
WORDS: Final = [word for region in REGIONS for word in range(region.first, region.first + region.words)]

# Those that somebody reads: the header's fields, the rows of writer, reader and joiner, the first sizes and tickets.
READ_WORDS: Final = {
    *range(12), 16, 24, 32,
    *(512 + 64 * index + word for index in range(3) for word in (0, 1, 2, 3, 4, 5, 8, 12, *range(16, 33))),
    *range(2560, 2578),
    *range(TICKETS_OFFSET // 8, TICKETS_OFFSET // 8 + 8),
    *(layout.ENTRIES_OFFSET // 8 + 8 * entry + word for entry in range(ENTRIES) for word in range(5)),
}  # fmt: skip


def name_of(word: int) -> str:
    """For people: ``row 1, word 2 (offset 0x1210)``."""
    for region in REGIONS:
        if region.first <= word < region.first + region.words:
            each = {"row": 64, "entry": 8}.get(region.name, region.words)
            number, at = divmod(word - region.first, each)
            return f"{region.name} {number}, word {at} (offset {8 * word:#x})"
    raise ValueError(word)


class Attacker:
    """Has one word of the control segment in its hand."""

    def __init__(self, ring_id: str, word: int) -> None:
        with segment.backing_of(ring_id).opened(ring_id, 0) as fd:
            self._memory = mmap.mmap(fd, 0)
        self._words = np.frombuffer(self._memory, np.uint64)
        self._word = word
        self.value = np.uint64(0)

    def choose(self, byte: int) -> None:
        """Each byte of the word will be this one."""
        self.value = np.uint64(int.from_bytes(bytes([byte]) * 8, "little"))

    def strike(self) -> None:
        """Overwrites the word."""
        self._words[self._word] = self.value

    def load(self) -> int:
        """What the word says."""
        return int(self._words[self._word])

    def store(self, value: int) -> None:
        """Overwrites it with any value."""
        self._words[self._word] = value

    def leave(self) -> None:
        """Takes its hands off."""
        del self._words
        self._memory.close()


class Victims:
    """A writer and a reader with a place of its own, and what they do all day."""

    def __init__(self, word: int, outcome: Outcome, backing: BackingName) -> None:
        self.outcome = outcome
        self.ring = Ring.create(
            capacity=16 * SEGMENT_NBYTES,
            segment=SEGMENT_NBYTES,
            entries=ENTRIES,
            on_full="block",
            timeout_s=0.002,
            backing=backing,
        )
        self.reader = join_as_if_another_process(self.ring.id)
        self.reader_id = self.reader.peer_id
        self.kept = self.ring.put(torch.arange(100, dtype=torch.int64))
        self.expected = self.kept.clone()
        self.sent = torch.zeros(1000, dtype=torch.uint8)
        self.is_entry = word >= layout.ENTRIES_OFFSET // 8
        self.is_read = word in READ_WORDS
        self.attacker = Attacker(self.ring.id, word)
        self._ranges: list[tuple[int, int]] = []
        ahead = word - TICKETS_OFFSET // 8
        if 0 < ahead < layout.TICKETS:  # so many tickets on their way that the next one is the attacker's word
            for _ in range(ahead):
                assert isinstance(self.ring.share(self.kept, self.reader_id), Handle)

    def work(self, byte: int) -> None:
        """One value of the word, struck before each step."""
        self.attacker.choose(byte)
        self._transfer(self.sent.fill_(byte))
        if self.is_read or byte % _WHOLE_EVERY == 0:
            self._forward_and_revoke()
            self._look_round()
        if byte % _FILL_EVERY == 0:
            self._fill()
        if self.is_read or byte % _JOIN_EVERY == 0:
            self._join()
        assert torch.equal(self.kept, self.expected), "the writer's own tensor shows other bytes"

    def _transfer(self, sent: torch.Tensor) -> None:
        """Put, share, open, release."""
        wire = b""
        put: Tensor = sent
        self.attacker.strike()
        with attempt(self.outcome):
            put = self.ring.put(sent)
        self.attacker.strike()
        with attempt(self.outcome):
            wire = bytes(self.ring.share(put, self.reader_id))
        if wire:
            self.attacker.strike()
            with attempt(self.outcome):
                self._opened(self.reader, wire, sent)
        self.attacker.strike()

    def _forward_and_revoke(self) -> None:
        """A second and a third handle of a block, one of them on to the writer, one never opened."""
        held: list[Tensor] = []
        handles: list[Handle] = []
        for _ in range(3):
            self.attacker.strike()
            with attempt(self.outcome):
                handle = self.ring.share(self.kept, self.reader_id)
                handles += [handle] if isinstance(handle, Handle) else []
        for handle in handles[:2]:
            self.attacker.strike()
            with attempt(self.outcome):
                held.append(self._opened(self.reader, bytes(handle), self.expected))
        for tensor in held[:1]:
            self.attacker.strike()
            with attempt(self.outcome):
                forwarded = bytes(self.reader.share(tensor, self.ring.peer_id))
                self.attacker.strike()
                held.append(self._opened(self.ring, forwarded, None))
        for handle in handles[2:]:
            self.attacker.strike()
            with attempt(self.outcome):
                self.ring.revoke(handle, self.reader_id)
                self.ring.revoke(handle)
        self.attacker.strike()

    def _look_round(self) -> None:
        """Reap, count, and map what is new."""
        for endpoint in (self.ring, self.reader):
            self.attacker.strike()
            with attempt(self.outcome):
                endpoint.reap()
            self.attacker.strike()
            with attempt(self.outcome):
                endpoint.statistics().holders()
        self.attacker.strike()
        with attempt(self.outcome):
            self.reader.map_ahead()

    def _join(self) -> None:
        """Somebody comes, and goes again."""
        self.attacker.strike()
        with attempt(self.outcome):
            other = join_as_if_another_process(self.ring.id)
            self.attacker.strike()
            other.close()

    def _fill(self) -> None:
        """To the brim and beyond: growth, a wait for room, and a reader that has to map what was added."""
        held: list[Tensor] = []
        for _ in range(18):
            self.attacker.strike()
            with attempt(self.outcome):
                held.append(self.ring.put(torch.zeros(SEGMENT_NBYTES - 4096, dtype=torch.uint8)))
        for tensor in held[-2:]:
            self.attacker.strike()
            with attempt(self.outcome):
                wire = bytes(self.ring.share(tensor, self.reader_id))
                self.attacker.strike()
                self._opened(self.reader, wire, tensor)

    def _opened(self, endpoint: Ring | Reader, wire: bytes, expected: Tensor | None) -> torch.Tensor:
        got = endpoint.open(wire)
        assert isinstance(got, torch.Tensor)
        if wire[0] == 0xB5:
            self._assert_inside(got.data_ptr(), got.nbytes)
        got.sum()  # every byte can be read
        if expected is not None and not self.is_entry:
            assert torch.equal(got, torch.as_tensor(expected)), "a handle shows other bytes"
        return got

    def _assert_inside(self, address: int, nbytes: int) -> None:
        """In one of the ring's data segments as this process has mapped them; the control segment is none."""

        def inside() -> bool:
            return any(start <= address and address + nbytes <= end for start, end in self._ranges)

        if not inside():
            self._ranges = list(mapped_ranges(self.ring.id))
            assert inside(), f"{nbytes} bytes at {address:#x} lie outside every data segment"

    def end(self) -> None:
        """Both leave, under fire."""
        ring_id = self.ring.id
        self.attacker.strike()
        self.reader.close()
        self.ring.reap()
        again = [self.ring.put(torch.zeros(64)) for _ in range(ENTRIES - 1)]
        assert all(self.ring.holds(tensor) for tensor in again), "an entry is lost for good"
        self.attacker.strike()
        del again, self.kept
        self.ring.close()
        wait_until(lambda: not any(ring_id in name for name in segment_names()), 10)
        self.attacker.leave()


def mapped_ranges(ring_id: str) -> Iterator[tuple[int, int]]:
    """Where this process has mapped data segments of the ring."""
    for match in re.finditer(rf"^(\w+)-(\w+) .*{ring_id}-[1-9]", Path("/proc/self/maps").read_text(), re.M):
        yield int(match[1], 16), int(match[2], 16)


@contextmanager
def victims(word: int, outcome: Outcome, backing: BackingName) -> Iterator[Victims]:
    """At their work; at the end both have left."""
    made = Victims(word, outcome, backing)
    yield made
    made.end()


def overwrite(attacks: list[tuple[int, int]], backing: BackingName, mark: Mark) -> Outcome:
    """Runs the attacks (word, value), a ring a word."""
    outcome: Outcome = Counter()
    number = 0
    while number < len(attacks):
        word = attacks[number][0]
        with victims(word, outcome, backing) as busy:
            while number < len(attacks) and attacks[number][0] == word:
                mark(number)
                busy.work(attacks[number][1])
                number += 1
    return outcome


def campaign(
    attacks: Iterable[tuple[int, int]], backing: BackingName, *, at_once: int = 4096, most_breaches: int = 20
) -> tuple[Outcome, list[Breach]]:
    """Every attack, ``at_once`` in a child; after a breach it goes on with the next word."""
    outcome: Outcome = Counter()
    breaches: list[Breach] = []
    todo = list(attacks)
    while todo and len(breaches) < most_breaches:
        print(f"{len(todo)} words and values to go, {len(breaches)} got through", flush=True)
        now, todo = todo[:at_once], todo[at_once:]
        try:
            outcome += trial(lambda mark, now=now: overwrite(now, backing, mark))  # type: ignore[misc]
        except BreachError as error:
            number = error.number or 0
            word, value = now[number]
            breaches.append(Breach(number, f"{name_of(word)} = {value:#04x} x 8: {error.what}"))
            todo = [attack for attack in now[number:] if attack[0] != word] + todo
    return outcome, breaches


def all_attacks() -> list[tuple[int, int]]:
    """Every word with every byte value, those first that somebody reads."""
    rest = [word for word in WORDS if word not in READ_WORDS]
    return read_attacks() + [(word, value) for word in rest for value in range(VALUES)]


def read_attacks() -> list[tuple[int, int]]:
    """Every word that somebody reads, with every byte value."""
    return [(word, value) for word in sorted(READ_WORDS) for value in range(VALUES)]


def some_attacks(rng: random.Random, words: int, values: int) -> list[tuple[int, int]]:
    """Every word that somebody reads and ``words`` others, each with 0, 255 and ``values`` others, in order."""
    chosen = sorted({*READ_WORDS, *rng.sample(WORDS, words)})
    return [(word, value) for word in chosen for value in sorted({0, 255, *rng.sample(range(VALUES), values)})]


if __name__ == "__main__":  # python -m tests.hostile.overwritten_pages [seed]: by hand, with what got through
    chance = random.Random(int(sys.argv[1]) if sys.argv[1:] else os.getpid())
    told, found = campaign(some_attacks(chance, 200, 6), "posix")
    print(dict(told), *found, sep="\n")
