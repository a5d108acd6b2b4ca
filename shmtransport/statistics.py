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
        """One line that says who holds the ring's memory, largest first."""
        holding = sorted((p for p in self.processes if p.leased_blocks), key=lambda p: -p.leased_nbytes)
        return (
            "; ".join(
                f"{p.role} {p.name or '?'} (index {p.index}, pid {p.pid}, {'alive' if p.alive else 'dead'}) holds "
                f"{p.leased_nbytes} bytes in {p.leased_blocks} blocks, the oldest for {p.oldest_lease_s:.1f} s"
                for p in holding
            )
            or "nobody holds any of it"
        )


def read(attachment: Attachment) -> RingStatistics:
    """Reads the shared state; takes no lease and no lock."""
    now_ns = time.monotonic_ns()
    blocks = attachment.core.blocks()
    processes = [_process(row, blocks, now_ns) for row in attachment.core.rows()]
    return RingStatistics(
        ring_id=attachment.ring_id,
        capacity_nbytes=attachment.capacity_nbytes,
        segments=attachment.core.facts()[1],
        used_nbytes=sum(block[5] for block in blocks),
        blocks=len(blocks),
        processes=processes,
    )


def _process(row: "_core.Row", blocks: "list[_core.Block]", now_ns: int) -> Process:
    index, peer_id, alive, _, pid, _, joined_ns, name, counters, inline = row
    held = [block for block in blocks if block[2] >> index & 1]
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
