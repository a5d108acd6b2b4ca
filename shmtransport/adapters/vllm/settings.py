"""What the environment says, checked before anything is touched."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self, cast

from shmtransport import segment
from shmtransport.config import SEGMENT_UNIT_NBYTES, OnFull, parse_size
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
_LEVELS: Final = ("debug", "info", "warning", "error")
_GIB: Final = 1 << 30
_MIB: Final = 1 << 20

BLOCK_TIMEOUT_S: Final = 1.0
"""How long SHMTRANSPORT_ON_FULL=block has an input wait for room before it goes inline."""


def _switch(environment: Mapping[str, str], name: str, default: str) -> bool:
    text = environment.get(_PREFIX + name, default)
    known = _SWITCH.get(text.strip().lower())
    if known is None:
        raise ConfigError(_PREFIX + name, text, "1 or 0 (or true, false, on, off, yes, no)")
    return known


def _choice(environment: Mapping[str, str], name: str, default: str, choices: tuple[str, ...]) -> str:
    text = environment.get(_PREFIX + name, default)
    if text.strip().lower() not in choices:
        raise ConfigError(_PREFIX + name, text, f"one of {', '.join(filter(None, choices))}")
    return text.strip().lower()


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
    on_full: OnFull = "inline"
    returns: bool = True
    """Whether big tensors in outputs come by handle."""
    log_level: str | None = None
    """None: vLLM's own."""

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
            on_full=cast(OnFull, _choice(environment, "ON_FULL", "inline", ("inline", "block"))),
            returns=_switch(environment, "RETURN", "1"),
            log_level=_choice(environment, "LOG_LEVEL", "", ("", *_LEVELS)).upper() or None,
        )

    def ring_capacity(self, cache_gib: float, frontends: int) -> int:
        """Most bytes that one of ``frontends`` processes may take for its ring.

        What was asked for; else vLLM's multimodal cache (``cache_gib``: the engine's cache keeps blocks) and a
        GiB for what is on its way, but at most half of what /dev/shm and the cgroup leave, shared by all.
        """
        if self.capacity_nbytes is not None:
            return self.capacity_nbytes
        free_nbytes, _ = segment.free_nbytes()
        wanted = int(max(cache_gib, 0.0) * _GIB) + _GIB
        return max(min(wanted, free_nbytes // 2 // max(frontends, 1)), SEGMENT_UNIT_NBYTES)

    def return_sizes(self) -> tuple[int, int]:
        """Capacity and segment of an EngineCore's ring for outputs: 512 MiB in steps of 32 MiB, or what was asked
        for if that is less, and at most an eighth of what is free."""
        free_nbytes, _ = segment.free_nbytes()
        capacity_nbytes = max(
            min(self.capacity_nbytes or 512 * _MIB, 512 * _MIB, free_nbytes // 8), SEGMENT_UNIT_NBYTES
        )
        return capacity_nbytes, min(self.segment_nbytes, 32 * _MIB, capacity_nbytes)
