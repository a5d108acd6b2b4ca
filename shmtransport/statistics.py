"""What a ring is doing, read from its shared state: who holds what, what was moved, what went inline and why."""

import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import msgspec

from shmtransport import _core
from shmtransport.attachment import Attachment
from shmtransport.config import BackingName
from shmtransport.layout import BACKING_MEMFD, WRITER, InlineReason, aligned_end


class Process(msgspec.Struct, frozen=True):
    """One process of a ring: the writer (index 0) or a reader. Sizes in bytes, times in seconds.

    Counters begin at 0 when it joins. A plain value: any thread, after a fork too.
    """

    index: int
    """Its place in the ring: 0 for the writer, 1 to 31 for readers."""
    role: str
    """``"writer"`` or ``"reader"``."""
    name: str
    """What it called itself; not unique."""
    peer_id: str
    """What others address it by."""
    pid: int
    """In its own pid namespace; for people, nothing is concluded from it."""
    alive: bool
    """Whether it holds its lock."""
    joined_s: float
    """Since it joined."""
    leased_blocks: int
    """Blocks it holds."""
    leased_nbytes: int
    """In these blocks."""
    oldest_lease_s: float
    """Age of the oldest block it holds, since that block was written; 0 when it holds none."""
    unopened: int
    """Handles that the process which asks has sent it, and that it has not opened yet; in an observation, all that
    living processes have sent it."""
    unopened_nbytes: int
    """In their blocks, which the sender holds for it meanwhile. Only the sender knows; 0 in an observation."""
    oldest_unopened_s: float
    """Age of the oldest of these blocks; 0 when there are none."""
    written_nbytes: int
    """In blocks it made: copied by ``put`` or filled in place after ``empty``."""
    copied_nbytes: int
    """Of these, copied by ``put``."""
    copy_s: float
    """Spent in these copies."""
    writes: int
    """Blocks it made."""
    shared: int
    """Handles it sent."""
    opened: int
    """Handles it opened."""
    opened_nbytes: int
    """In the tensors it opened."""
    reaps: int
    """Dead processes whose leases it gave back."""
    wait_s: float
    """Spent waiting for room."""
    revoked: int
    """Handles it took back."""
    inline: dict[str, int]
    """Transfers that went inline, by reason; reasons that never happened are left out."""


class RingStatistics(msgspec.Struct, frozen=True):
    """A snapshot of a ring. Counters only grow, each as long as its process has its place; a snapshot is not atomic
    across processes. Sizes in bytes, times in seconds. A plain value: any thread, after a fork too."""

    ring_id: str
    """32 hexadecimal characters."""
    backing: BackingName
    """``"posix"`` or ``"memfd"``."""
    age_s: float
    """Since it was created, by the clock on the wall."""
    capacity_nbytes: int
    """Most that its segments may take together."""
    segments: int
    """How many it has grown to."""
    reserved_nbytes: int
    """In its segments: what it takes of the host's shared memory now."""
    used_nbytes: int
    """In blocks that somebody holds, without what was rounded up to pages."""
    largest_free_nbytes: int
    """The largest tensor for which there is room without growth."""
    blocks: int
    """That somebody holds."""
    entries: int
    """Most blocks that it can have."""
    processes: list[Process]
    """The writer first, then its readers by index."""

    @property
    def writer(self) -> Process:
        """The process that owns the ring."""
        return self.processes[0]

    @property
    def inline(self) -> dict[str, int]:
        """Inline transfers of all processes, by reason."""
        total: dict[str, int] = {}
        for process in self.processes:
            for reason, count in process.inline.items():
                total[reason] = total.get(reason, 0) + count
        return total

    def holders(self) -> str:
        """One line that says who holds the ring's memory, or has not opened what was sent to it, largest first."""
        holding = [process for process in self.processes if process.leased_blocks or process.unopened]
        holding.sort(key=lambda process: -max(process.leased_nbytes, process.unopened_nbytes))
        return "; ".join(map(_holding, holding)) or "nobody holds any of it"


def _holding(process: Process) -> str:
    """Who it is, and what it holds or keeps others from giving back."""
    state = "alive" if process.alive else "dead"
    who = f"{process.role} {process.name or '?'} (index {process.index}, pid {process.pid}, {state})"
    what = []
    if process.leased_blocks:
        what.append(
            f"holds {process.leased_nbytes} bytes in {process.leased_blocks} blocks, "
            f"the oldest for {process.oldest_lease_s:.1f} s"
        )
    if process.unopened:
        what.append(
            f"has not opened {process.unopened} handles of {process.unopened_nbytes} bytes, "
            f"the oldest for {process.oldest_unopened_s:.1f} s"
        )
    return f"{who} {' and '.join(what)}"


class Unopened(NamedTuple):
    """What one process was sent and has not opened."""

    handles: int
    nbytes: int
    oldest_ns: int
    """When the oldest of their blocks was written, CLOCK_MONOTONIC; 0 if that is not known."""


def read(attachment: Attachment) -> RingStatistics:
    """Reads the shared state; takes no lease and no lock."""
    sent = attachment.core.unopened()  # before the blocks: what they name is then there, or was opened since
    blocks = attachment.core.blocks()
    return of(attachment.core.identity(), attachment.core.rows(), blocks, partial(_sent_to, sent, blocks))


def of(
    identity: "_core.Identity",
    rows: "list[_core.Row]",
    blocks: "list[_core.Block]",
    unopened: Callable[[int], Unopened],
) -> RingStatistics:
    """From what the core says of a ring; ``unopened`` by index."""
    ring_id, backing, entries, capacity_nbytes, _, created_ns, sizes = identity
    now_ns = time.monotonic_ns()
    return RingStatistics(
        ring_id=ring_id.hex(),
        backing="memfd" if backing == BACKING_MEMFD else "posix",
        age_s=max(time.time_ns() - created_ns, 0) / 1e9,
        capacity_nbytes=capacity_nbytes,
        segments=len(sizes),
        reserved_nbytes=sum(sizes),
        used_nbytes=sum(block[5] for block in blocks),
        largest_free_nbytes=_largest_gap(sizes, blocks),
        blocks=len(blocks),
        entries=entries,
        processes=[_process(row, blocks, unopened(row[0]), now_ns) for row in rows],
    )


def _largest_gap(sizes: tuple[int, ...], blocks: "list[_core.Block]") -> int:
    """Blocks that were given back since the writer last looked count as room: it collects them when it needs them."""
    ends = [0] * len(sizes)
    largest = 0
    for _, _, _, segment, offset, nbytes, _ in sorted(blocks, key=lambda block: (block[3], block[4])):
        if segment < len(sizes):
            largest = max(largest, offset - ends[segment])
            ends[segment] = aligned_end(offset, nbytes)
    return max([largest, *(size - end for size, end in zip(sizes, ends, strict=True))])


def _sent_to(sent: list[tuple[int, int]], blocks: "list[_core.Block]", index: int) -> Unopened:
    entries = [entry for entry, mask in sent if mask >> index & 1]
    awaited = [block for block in blocks if block[0] in set(entries)]
    nbytes = sum(block[5] for block in awaited)
    return Unopened(len(entries), nbytes, min((block[6] for block in awaited), default=0))


def _process(row: "_core.Row", blocks: "list[_core.Block]", unopened: Unopened, now_ns: int) -> Process:
    index, peer_id, alive, _, pid, _, joined_ns, name, counters, inline = row
    held = [block for block in blocks if block[2] >> index & 1]
    written_nbytes, writes, shared, opened, opened_nbytes, reaps, wait_ns, revoked, copied_nbytes, copy_ns = counters
    return Process(
        index=index,
        role="writer" if index == WRITER else "reader",
        name=name,
        peer_id=peer_id.hex(),
        pid=pid,
        alive=alive,
        joined_s=(now_ns - joined_ns) / 1e9,
        leased_blocks=len(held),
        leased_nbytes=sum(block[5] for block in held),
        oldest_lease_s=max((now_ns - block[6] for block in held), default=0) / 1e9,
        unopened=unopened.handles,
        unopened_nbytes=unopened.nbytes,
        oldest_unopened_s=(now_ns - unopened.oldest_ns) / 1e9 if unopened.oldest_ns else 0.0,
        written_nbytes=written_nbytes,
        copied_nbytes=copied_nbytes,
        copy_s=copy_ns / 1e9,
        writes=writes,
        shared=shared,
        opened=opened,
        opened_nbytes=opened_nbytes,
        reaps=reaps,
        wait_s=wait_ns / 1e9,
        revoked=revoked,
        inline={reason.name.lower(): inline[reason] for reason in InlineReason if inline[reason]},
    )
