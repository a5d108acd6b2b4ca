"""Who survives a kill, and what they require of what it left behind.

This process has a ring of its own, in which a bystander reads; both live through all kills of a scenario. The
victim takes part in that ring, or has one of its own that the two have joined.
"""

import contextlib
import ctypes
import re
import statistics
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from shmtransport import Reader, Ring, SegmentNotFoundError, _core, sweep
from shmtransport.config import BackingName
from shmtransport.tensors import Tensor
from tests.crash.nursery import Nursery
from tests.processes.children import Child, digest, names_of, pixels
from tests.support import segment_names, wait_until

PAYLOAD_NBYTES = 128 << 10
HELD_NBYTES = 64 << 10
SEGMENT_NBYTES = 1 << 20
ENTRIES = 8
WAITING_OFFSET = 192
"""Of the header's field that is not 0 while the writer waits (docs/protocol.md)."""

# A victim's own ring: its copies are large enough for kernels and threads.
MAKE_RING = "ring = Ring.create('4MiB', segment='2MiB', entries=8, on_full='raise', copy_kernel=kernel)"

# In every child: which backing its rings have, and where it says so before it makes one.
TELL_RINGS = """
os.environ[shmtransport.segment.VARIABLE] = backing
make = shmtransport.attachment._try_create

def make_and_tell(ring_id, *more):
    with open(created, "a") as file:
        print(ring_id, file=file)
    return make(ring_id, *more)

shmtransport.attachment._try_create = make_and_tell
"""

# In a file with a handle that the victim got out: between it and the digest of what it stands for.
BEHIND_THE_WIRE = b"\0wire\0"

# A transfer may take this many times what it took before the first kill; a lost wake-up costs 50 ms, which is more.
SLOWER = 4


def leased_by_the_dead(core: _core.Attachment, but: int = 0) -> int:
    """Blocks with the bit of an index whose lock is free, without those bits that are in the mask ``but``."""
    living = sum(1 << index for index in range(32) if core.is_alive(index))
    return sum(1 for block in core.blocks() if block[2] & ~living & ~but)


class World:
    """The survivors of one scenario. Made by `world`."""

    def __init__(self, ring: Ring, backing: str, nursery: Nursery, folder: Path) -> None:
        self.ring = ring
        self._backing = backing
        self._nursery = nursery
        self._created = folder / "created"  # ids of the children's rings
        self.bystander = self.child()
        self.bystander.run(
            "reader = Reader.join(ring_id)\n"
            "held, far = [], None\n"
            "def opened(reader, wire):\n"
            "    try: return digest(reader.open(wire))\n"
            "    except StaleHandleError: return 'stale'\n",
            ring_id=ring.id,
        )
        self.bystander_id: str = self.bystander.ask("reader.peer_id")
        self.delivered = folder / "delivered"
        self._sweeps_first = False
        self.reader: Reader | None = None  # of the victim's ring
        self._held: list[Tensor] = []
        self._waiting: threading.Thread | None = None
        self._seed = 0
        self.transfer_s = statistics.median(self.transfer() for _ in range(15))

    # -- what scenarios are made of --

    def child(self) -> Child:
        """A new process, whose rings have the backing of this one's."""
        child = self._nursery.child()
        child.run(TELL_RINGS, backing=self._backing, created=str(self._created))
        return child

    def joined(self, process: Child) -> str:
        """``process`` as a reader of this process's ring; its peer id."""
        process.run("reader = Reader.join(ring_id)", ring_id=self.ring.id)
        peer_id: str = process.ask("reader.peer_id")
        return peer_id

    def sent(self, *peer_ids: str) -> bytes:
        """A handle of a block that only its ticket still holds."""
        self._seed += 1
        return bytes(self.ring.share(pixels(self._seed, PAYLOAD_NBYTES), peer_ids))

    def opened(self, process: Child) -> str:
        """As `joined`, with a tensor ``held`` that nobody else holds."""
        peer_id = self.joined(process)
        process.run("held = reader.open(wire)", wire=self.sent(peer_id))
        self.ring.attachment.core.settle()
        return peer_id

    def dead_reader(self) -> None:
        """Leaves a reader that was killed: a tensor, a handle on its way to it, and one that it has sent."""
        dead = self.child()
        self.sent(self.opened(dead))
        dead.run("sent = reader.share(held, other)", other=self.bystander_id)
        dead.kill()

    def put_that_waits(self) -> None:
        """Starts a thread that waits until the ring's whole segment is free, and waits until it waits."""
        core = self.ring.attachment.core

        def put() -> None:
            assert not isinstance(core.allocate(SEGMENT_NBYTES, 20.0), int)

        self._waiting = threading.Thread(target=put)
        self._waiting.start()
        maps = Path("/proc/self/maps").read_text()
        control = re.search(rf"^([0-9a-f]+)-[0-9a-f]+ rw-s .*shmt-\d+-{self.ring.id}-0\b", maps, re.MULTILINE)
        assert control is not None
        waiting = ctypes.c_uint32.from_address(int(control[1], 16) + WAITING_OFFSET)
        wait_until(lambda: waiting.value > 0)

    def join_ring_of(self, victim: Child, *, kernel: str = "libc") -> None:
        """The victim makes a ring; both survivors join it, and hold a tensor and an unopened handle each."""
        victim.run(MAKE_RING, kernel=kernel)
        ring_id = victim.ask("ring.id")
        self.reader = Reader.join(ring_id)
        self.bystander.run("far = Reader.join(ring_id)", ring_id=ring_id)
        ids = [self.reader.peer_id, self.bystander.ask("far.peer_id")]
        victim.run(f"held = ring.put(pixels(1, {HELD_NBYTES}))", ids=ids)
        wire = victim.ask("bytes(ring.share(held, ids))")
        self._held.append(self.reader.open(wire))
        self.bystander.run("held.append(far.open(wire))", wire=wire)
        victim.run(f"unopened = ring.share(pixels(2, {HELD_NBYTES}), ids)")

    # -- what must hold when the victim is dead --

    def check(self) -> None:
        """Fails if anything is lost, leaked, wrong or slow."""
        if self._waiting is not None:
            self._waiting.join(10)
            assert not self._waiting.is_alive(), "the writer waits for the dead"
            self._waiting = None
        if self.reader is not None:
            self._check_ring_of_the_dead(self.reader)
            assert self._backing == "memfd" or names_of(self.reader.id) == []  # a socket is left to a sweep
            self.reader = None
        self._open_what_was_delivered("reader")
        self._check_names()
        self._check_own_ring()
        wait_until(self._transfers_are_as_fast_as_before)

    def transfer(self) -> float:
        """Seconds from put to the bystander's answer, which must be of the right bytes."""
        self._seed += 1
        tensor = pixels(self._seed, PAYLOAD_NBYTES)
        expected = digest(tensor)
        started = time.perf_counter()
        wire = bytes(self.ring.share(tensor, self.bystander_id))
        found = self.bystander.ask("digest(reader.open(wire))", wire=wire)
        took = time.perf_counter() - started
        assert found == expected
        return took

    def _transfers_are_as_fast_as_before(self) -> bool:
        return min(self.transfer() for _ in range(3)) < SLOWER * self.transfer_s

    def _check_names(self) -> None:
        """Nobody joins a dead writer's ring, whatever there is of it, nor waits for it; a sweep, as the next start
        makes one, leaves nothing of it. Either may come first."""
        ring_ids = self._created.read_text().split() if self._created.exists() else []
        self._created.unlink(missing_ok=True)

        def nothing_is_left() -> bool:
            left = {name for name in segment_names() for ring_id in ring_ids if ring_id in name}
            if left:
                sweep()
            return not left

        def join() -> None:
            for ring_id in ring_ids:
                with pytest.raises(SegmentNotFoundError):
                    Reader.join(ring_id)

        self._sweeps_first = not self._sweeps_first
        if self._sweeps_first:
            wait_until(nothing_is_left)
        join()
        wait_until(nothing_is_left)

    def _open_what_was_delivered(self, reader: str) -> None:
        """A handle that the victim got out: right bytes, or stale because its sender is dead."""
        if not self.delivered.exists():
            return
        wire, expected = self.delivered.read_bytes().split(BEHIND_THE_WIRE)
        self.delivered.unlink()
        assert self.bystander.ask(f"opened({reader}, wire)", wire=wire) in (expected.decode(), "stale")

    def _check_ring_of_the_dead(self, reader: Reader) -> None:
        """Its writer's bit stays (rule 7); all else is as in a living ring, and the last one out removes the names."""
        core = reader.attachment.core

        def only_the_living_and_the_writer_have_leases() -> bool:
            return core.reap() == 0 and leased_by_the_dead(core, but=1) == 0

        def every_ticket_is_settled() -> bool:
            return core.settle() == 0

        def only_the_writer_has_leases() -> bool:
            return all(block[2] == 1 for block in core.blocks())

        expected = digest(pixels(1, HELD_NBYTES))
        assert [digest(tensor) for tensor in self._held] == [expected]
        self._open_what_was_delivered("far")
        wait_until(only_the_living_and_the_writer_have_leases)
        forwarded = bytes(reader.share(self._held[0], self.bystander.ask("far.peer_id")))
        assert self.bystander.ask("digest(far.open(wire))", wire=forwarded) == expected
        wait_until(every_ticket_is_settled)
        assert self.bystander.ask("far.attachment.core.settle()") == 0
        self.bystander.run("held.clear(); far.close(); far = None; gc.collect()")
        self._held.clear()
        wait_until(only_the_writer_has_leases)
        reader.close()

    def _check_own_ring(self) -> None:
        core = self.ring.attachment.core

        def only_the_living_have_leases() -> bool:
            return core.reap() == 0 and leased_by_the_dead(core) == 0

        def every_ticket_is_settled() -> bool:
            return core.settle() == 0

        def all_memory_is_back() -> bool:
            return core.room() == (0, SEGMENT_NBYTES, SEGMENT_NBYTES, 0)

        wait_until(only_the_living_have_leases)
        self.bystander.run("held.clear(); gc.collect()")
        assert self.bystander.ask("reader.attachment.core.settle()") == 0
        wait_until(every_ticket_is_settled)
        wait_until(all_memory_is_back)
        facts = self.ring.statistics()
        assert (facts.used_nbytes, facts.blocks) == (0, 0)
        assert [process.alive for process in facts.processes] == [True, True]


@contextlib.contextmanager
def world(nursery: Nursery, folder: Path, backing: BackingName) -> Iterator[World]:
    """Survivors for the time of the ``with`` block; then nothing is left of their ring either."""
    ring = Ring.create(
        SEGMENT_NBYTES,
        segment=SEGMENT_NBYTES,
        entries=ENTRIES,
        on_full="raise",
        copy_kernel="libc",
        backing=backing,
    )
    made = World(ring, backing, nursery, folder)
    try:
        yield made
    finally:
        made.bystander.finish()
        ring.close()
