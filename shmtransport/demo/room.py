"""How much this machine has left for the demo: being killed for memory is no way to end it."""

from pathlib import Path
from typing import NamedTuple, Self

from shmtransport import segment
from shmtransport.segment.room import SHM_DIRECTORY


class Room(NamedTuple):
    """Bytes that may still be taken."""

    shared_nbytes: int
    """As shared memory."""
    memory_nbytes: int
    """In all, shared memory among it."""

    @classmethod
    def here(cls) -> Self:
        """What this process may take now: of the machine, of /dev/shm, and of its cgroup if that has a limit."""
        shared_nbytes, limit = segment.free_nbytes()
        memory_nbytes = _available_nbytes()
        if limit != str(SHM_DIRECTORY):
            memory_nbytes = min(memory_nbytes, shared_nbytes)
        return cls(shared_nbytes, memory_nbytes)

    def __str__(self) -> str:
        return f"{self.shared_nbytes >> 20} MiB of shared memory and {self.memory_nbytes >> 20} MiB in all"


def _available_nbytes() -> int:
    fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return int(fields["MemAvailable"].removesuffix("kB")) * 1024
