"""Attack: handles with flipped bits, random bytes and forged fields, by the million.

The attacker can send to a socket that a reader of the ring receives from, has seen genuine handles, and computes the
checksum of what it sends: the checksum is not a signature. It has not joined the ring and cannot touch shared memory.

The victim opens whatever comes. Each time it must get

    one of three typed errors        HandleError, LayoutMismatchError, StaleHandleError
    or a tensor of a living block    exactly the bytes at the place that the forged handle names, of the generation that
                                     it names, and not one byte beyond the block

and afterwards no lease is left that nobody has, and a handle on its way to another reader still opens.
"""

import ctypes
import random
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from shmtransport import Handle, HandleError, LayoutMismatchError, Reader, Ring, StaleHandleError, dtypes
from shmtransport.tensors import Tensor
from tests.forging import sealed
from tests.hostile.trials import Mark, Outcome, attempt, trial
from tests.peers import join_as_if_another_process

REFUSED: Final = (HandleError, LayoutMismatchError, StaleHandleError)

Kind = tuple[torch.dtype | np.dtype[np.generic], tuple[int, ...]]
"""Of a genuine tensor: its dtype, and so its library, and its shape."""

KINDS: Final[list[Kind]] = [
    (dtype, shape)
    for known in dtypes.TABLE
    for dtype in (known.torch, known.numpy)
    if dtype is not None
    for shape in ((), (5,), (3, 4), (2, 3, 4), (2, 1, 2, 1, 2, 1, 2, 1), (1,) * 30 + (7,))
]

_AT_ONCE: Final = 20_000


def raw(tensor: Tensor) -> bytes:
    """Its bytes, taken from where it says they are."""
    address = tensor.data_ptr() if isinstance(tensor, torch.Tensor) else tensor.ctypes.data
    return ctypes.string_at(address, tensor.nbytes)


class Prey:
    """A reader, and a ring with some living blocks of known content and a genuine handle for each."""

    def __init__(self, ring: Ring, reader: Reader, bystander: Reader, kinds: list[Kind]) -> None:
        self.ring, self.reader, self.bystander = ring, reader, bystander
        self.wires: list[bytes] = []
        self.living: dict[tuple[int, int], bytes] = {}
        self._held: list[Tensor] = []
        for number, (dtype, shape) in enumerate(kinds):
            tensor = ring.empty(shape, dtype)
            address = tensor.data_ptr() if isinstance(tensor, torch.Tensor) else tensor.ctypes.data
            ctypes.memmove(address, bytes((number + at) % 251 for at in range(tensor.nbytes)), tensor.nbytes)
            handle = ring.share(tensor, reader.peer_id)
            assert isinstance(handle, Handle)
            self.wires.append(bytes(handle))
            self.living[handle.entry, handle.generation] = raw(tensor)
            assert ring.revoke(handle)
            self._held.append(tensor)
        self._elsewhere = bytes(ring.share(self._held[0], bystander.peer_id))

    def swallow(self, wire: bytes, outcome: Outcome) -> None:
        """Opens one forged handle."""
        with attempt(outcome):
            try:
                got = self.reader.open(wire)
            except REFUSED:
                raise
            except Exception as error:
                raise AssertionError(f"{wire.hex()} raised {error!r}") from error
            named = Handle.from_bytes(wire)
            block = self.living[named.entry, named.generation]
            assert got.nbytes > 0
            assert tuple(got.shape) == named.shape
            assert raw(got) == block[named.offset : named.offset + named.nbytes], f"{wire.hex()} shows other bytes"

    def check(self) -> None:
        """Nothing is left of the attacks."""
        masks = {(entry, generation): mask for entry, generation, mask, *_ in self.ring.attachment.core.blocks()}
        assert masks == dict.fromkeys(self.living, 1), "only the writer holds what it put"
        assert self.ring.attachment.core.settle() == 1, "the bystander's handle is still on its way"

    def end(self) -> None:
        """The bystander gets what was meant for it."""
        self.check()
        assert raw(self.bystander.open(self._elsewhere)) == raw(self._held[0])
        self._held.clear()


@contextmanager
def prey(kinds: list[Kind]) -> Iterator[Prey]:
    """Alive, and at the end unharmed."""
    with (
        Ring.create(capacity="1MiB", segment="1MiB", entries=len(kinds) + 4) as ring,
        join_as_if_another_process(ring.id, "reader") as reader,
        join_as_if_another_process(ring.id, "bystander") as bystander,
    ):
        made = Prey(ring, reader, bystander, kinds)
        yield made
        made.end()


def flip_every_bit(kinds: list[Kind], mark: Mark) -> tuple[int, Outcome]:
    """Each bit of each handle: as damage, which the checksum finds, and as forgery, which it does not."""
    outcome: Outcome = Counter()
    attacks = 0
    for first in range(0, len(kinds), 16):
        with prey(kinds[first : first + 16]) as victim:
            for wire in victim.wires:
                for bit in range(8 * len(wire)):
                    mark(attacks)
                    flipped = bytearray(wire)
                    flipped[bit // 8] ^= 1 << bit % 8
                    before = outcome["fine"]
                    victim.swallow(bytes(flipped), outcome)
                    assert outcome["fine"] == before, "the checksum finds every flipped bit"
                    victim.swallow(sealed(bytes(flipped[:-4])), outcome)
                    attacks += 2
    return attacks, outcome


def mutated(wires: list[bytes], chance: np.random.Generator, count: int) -> Iterator[bytes]:
    """``count`` mutations of ``wires``: some bytes replaced, half of all by what a bound might be; every other one gets
    its checksum back."""
    lengths = np.array([len(wire) for wire in wires])
    which = chance.integers(0, len(wires), count)
    changes = chance.integers(1, 7, count)
    places: npt.NDArray[np.float64] = chance.random((count, 6))
    edges = np.array([0, 1, 2, 0x7F, 0x80, 0xFE, 0xFF], np.uint8)
    values = np.where(
        chance.random((count, 6)) < 0.5, edges[chance.integers(0, 7, (count, 6))], chance.integers(0, 256, (count, 6))
    ).astype(np.uint8)
    positions = (places * lengths[which, None]).astype(np.int64)
    for number in range(count):
        wire = bytearray(wires[which[number]])
        for change in range(changes[number]):
            wire[positions[number, change]] = values[number, change]
        yield bytes(wire) if number % 2 else sealed(bytes(wire[:-4]))


def forged(wires: list[bytes], chance: np.random.Generator, count: int) -> Iterator[bytes]:
    """``count`` handles that parse: of a right ring, kind and dtype, with random or tempting numbers in all else."""
    tempting = [0, 1, 2, 3, 8, 64, 96, 4096, 1 << 20, 1 << 31, (1 << 32) - 1, 1 << 32, 1 << 62, (1 << 63) - 1, 1 << 63]
    tempting += [(1 << 64) - 96, (1 << 64) - 8, (1 << 64) - 1]
    draws = chance.integers(0, 1 << 32, (count, 12))
    for number in range(count):
        draw = [int(value) for value in draws[number]]
        genuine = Handle.from_bytes(wires[draw[0] % len(wires)])
        rank = draw[1] % 9
        dims = tuple(
            value % 9 if value % 3 else tempting[value % len(tempting)] for value in draw[2 : 2 + min(rank, 3)]
        ) + (1,) * max(rank - 3, 0)
        yield bytes(
            Handle(
                genuine.ring_id,
                genuine.entry if draw[5] % 8 else draw[5] % (len(wires) + 8),
                genuine.generation + (draw[6] % 3 if draw[6] % 5 == 0 else 0),
                draw[7] % 200 if draw[7] % 4 else tempting[draw[7] % len(tempting)],
                draw[8] % 2,
                draw[9] % len(dtypes.TABLE),
                dims if draw[10] % 4 else genuine.shape,
                draw[11] % 33,
                draw[3] % 2050,
                draw[4] % 5,
            )
        )


def mutate(seed: int, count: int, mark: Mark) -> tuple[int, Outcome]:
    """``count`` random mutations and a fifth as many forgeries."""
    chance = np.random.default_rng(seed)
    kinds = random.Random(seed).sample(KINDS, 16)
    outcome: Outcome = Counter()
    with prey(kinds) as victim:
        for number, wire in enumerate(mutated(victim.wires, chance, count)):
            mark(number)
            before = outcome["fine"]
            victim.swallow(wire, outcome)
            assert outcome["fine"] == before or wire in victim.wires or wire == sealed(wire[:-4])
        for number, wire in enumerate(forged(victim.wires, chance, count // 5)):
            mark(count + number)
            victim.swallow(wire, outcome)
    return count + count // 5, outcome


def replay(reuses: int, mark: Mark) -> tuple[int, Outcome]:
    """Every handle that a block ever had, after 1, 2, … ``reuses`` reuses of its one entry: stale, each of them."""
    outcome: Outcome = Counter()
    attacks = 0
    with (
        Ring.create(capacity="64KiB", segment="64KiB", entries=1) as ring,
        join_as_if_another_process(ring.id) as reader,
    ):
        former: list[bytes] = []
        for number in range(reuses):
            tensor = ring.put(torch.full((64,), number % 251, dtype=torch.uint8))
            wire = bytes(ring.share(tensor, reader.peer_id))
            for stale in former:
                mark(attacks)
                attacks += 1
                with attempt(outcome):
                    reader.open(stale)
            assert outcome["fine"] == 0
            assert raw(reader.open(wire)) == raw(tensor)
            former.append(wire)
            del tensor
    return attacks, outcome


def campaign(seed: int, count: int) -> tuple[int, Outcome]:
    """``count`` mutations, some thousands in a child each."""
    attacks, outcome = 0, Counter[str]()
    for number in range(-(-count // _AT_ONCE)):
        size = min(_AT_ONCE, count - number * _AT_ONCE)
        answer = trial(lambda mark, number=number, size=size: counted(*mutate(seed + number, size, mark)))  # type: ignore[misc]
        attacks += answer.pop("attacks")
        outcome += answer
    return attacks, outcome


def counted(attacks: int, outcome: Outcome) -> Outcome:
    return outcome + Counter(attacks=attacks)


if __name__ == "__main__":  # python -m tests.hostile.forged_handles [seed [count]]
    print(campaign(int([*sys.argv, "0"][1]), int([*sys.argv, "0", "100000"][2] or 100_000)))
