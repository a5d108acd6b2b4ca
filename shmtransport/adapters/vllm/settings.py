"""What the environment says, checked before anything is touched."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self

from shmtransport import segment
from shmtransport.config import SEGMENT_UNIT_NBYTES, parse_size
from shmtransport.errors import ConfigError

_PREFIX: Final = "SHMTRANSPORT_"
_SWITCH: Final = {
    "1": True,
    "true": True,
    "on": True,
    "yes": True,
    "0": False,
    "false": False,
    "off": False,
    "no": False,
}
_GIB: Final = 1 << 30


def _switch(environment: Mapping[str, str], name: str, default: str) -> bool:
    text = environment.get(_PREFIX + name, default)
    known = _SWITCH.get(text.strip().lower())
    if known is None:
        raise ConfigError(_PREFIX + name, text, "1 or 0 (or true, false, on, off, yes, no)")
    return known


def _size(environment: Mapping[str, str], name: str, default: str, smallest: int) -> int:
    return parse_size(_PREFIX + name, environment.get(_PREFIX + name, default), smallest=smallest)


@dataclass(frozen=True, slots=True)
class Settings:
    """The table in docs/vllm.md. Sizes in bytes."""

    enabled: bool
    capacity_nbytes: int | None
    """None: `ring_capacity` chooses."""
    segment_nbytes: int
    threshold_nbytes: int
    writable: bool
    """Whether engines map segments writable."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """Raises `ConfigError` that names the variable, what it holds and what it takes.

        With SHMTRANSPORT_ENABLE=0 nothing else is looked at: the kill switch works whatever the others hold.
        """
        if not _switch(environment, "ENABLE", "1"):
            return cls(False, None, 0, 0, False)
        capacity: int | None = None
        if _PREFIX + "CAPACITY" in environment:
            capacity = _size(environment, "CAPACITY", "", SEGMENT_UNIT_NBYTES)
        return cls(
            enabled=True,
            capacity_nbytes=capacity,
            segment_nbytes=_size(environment, "SEGMENT", "512MiB", SEGMENT_UNIT_NBYTES),
            threshold_nbytes=_size(environment, "THRESHOLD", "64KiB", 1),
            writable=_switch(environment, "WRITABLE", "0"),
        )

    def ring_capacity(self, cache_gib: float, frontends: int) -> int:
        """Most bytes that one of ``frontends`` processes may take for its ring.

        What was asked for; else vLLM's multimodal cache (``cache_gib``: the engine's cache keeps blocks) and a
        GiB for what is on its way, but at most a quarter of what /dev/shm and the cgroup leave, shared by all.
        """
        if self.capacity_nbytes is not None:
            return self.capacity_nbytes
        free_nbytes, _ = segment.free_nbytes()
        wanted = int(max(cache_gib, 0.0) * _GIB) + _GIB
        return max(min(wanted, free_nbytes // 4 // max(frontends, 1)), SEGMENT_UNIT_NBYTES)
