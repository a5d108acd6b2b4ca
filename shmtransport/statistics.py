"""What a ring is doing, read from its shared state: who holds what, what was moved, what went inline and why."""

import time

import msgspec

from shmtransport import _core
from shmtransport.attachment import Attachment
from shmtransport.layout import WRITER, InlineReason


class Process(msgspec.Struct, frozen=True):
    """One process of a ring: the writer (index 0) or a reader. Sizes in bytes, times in seconds."""

    index: int
    role: str
    name: str
    peer_id: str
    pid: int
    alive: bool
    joined_s: float
    """Since it joined."""
    leased_blocks: int
    leased_nbytes: int
    oldest_lease_s: float
    """Age of the oldest block it holds, since that block was written; 0 when it holds none."""
    unopened: int
    """Handles that the process which asks has sent it, and that it has not opened yet."""
    unopened_nbytes: int
    """In their blocks, which the sender holds for it meanwhile."""
    oldest_unopened_s: float
    """Age of the oldest of these blocks; 0 when there are none."""
    written_nbytes: int
    """In blocks it made: copied by ``put`` or filled in place after ``empty``."""
    copied_nbytes: int
    """Of these, copied by ``put``."""
    writes: int
    """Blocks it made."""
    shared: int
    opened: int
    opened_nbytes: int
    reaps: int
    wait_s: float
    """Spent waiting for room."""
    revoked: int
    inline: dict[str, int]
    """Transfers that went inline, by reason; reasons that never happened are left out."""


class RingStatistics(msgspec.Struct, frozen=True):
    """A snapshot of a ring. Counters only grow; a snapshot is not atomic across processes."""

    ring_id: str
    capacity_nbytes: int
    segments: int
    used_nbytes: int
    """In blocks that somebody holds, without what was rounded up to pages."""
    blocks: int
    processes: list[Process]

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


def read(attachment: Attachment) -> RingStatistics:
    """Reads the shared state; takes no lease and no lock."""
    now_ns = time.monotonic_ns()
    unopened = attachment.core.unopened()  # before the blocks: what they name is then there, or was opened since
    blocks = attachment.core.blocks()
    processes = [_process(row, blocks, unopened, now_ns) for row in attachment.core.rows()]
    return RingStatistics(
        ring_id=attachment.ring_id,
        capacity_nbytes=attachment.capacity_nbytes,
        segments=attachment.core.facts()[1],
        used_nbytes=sum(block[5] for block in blocks),
        blocks=len(blocks),
        processes=processes,
    )


def _process(row: "_core.Row", blocks: "list[_core.Block]", unopened: list[tuple[int, int]], now_ns: int) -> Process:
    index, peer_id, alive, _, pid, _, joined_ns, name, counters, inline = row
    held = [block for block in blocks if block[2] >> index & 1]
    sent = [entry for entry, mask in unopened if mask >> index & 1]
    entries = set(sent)
    awaited = [block for block in blocks if block[0] in entries]
    written_nbytes, writes, shared, opened, opened_nbytes, reaps, wait_ns, revoked, copied_nbytes = counters
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
        unopened=len(sent),
        unopened_nbytes=sum(block[5] for block in awaited),
        oldest_unopened_s=max((now_ns - block[6] for block in awaited), default=0) / 1e9,
        written_nbytes=written_nbytes,
        copied_nbytes=copied_nbytes,
        writes=writes,
        shared=shared,
        opened=opened,
        opened_nbytes=opened_nbytes,
        reaps=reaps,
        wait_s=wait_ns / 1e9,
        revoked=revoked,
        inline={reason.name.lower(): inline[reason] for reason in InlineReason if inline[reason]},
    )
