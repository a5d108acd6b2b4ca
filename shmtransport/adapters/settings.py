"""What the environment says, checked before anything is touched."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple, Self, cast, get_args

from shmtransport import segment
from shmtransport.config import (
    SEGMENT_UNIT_NBYTES,
    BackingChoice,
    BackingName,
    OnFull,
    parse_size,
    pinned_budget_nbytes,
)
from shmtransport.errors import ConfigError
from shmtransport.segment.backing import Backing

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


class RingSize(NamedTuple):
    """What to make a ring of; sizes in bytes."""

    backing: BackingName
    capacity_nbytes: int
    segment_nbytes: int


@dataclass(frozen=True, slots=True)
class Settings:
    """The tables in docs/vllm.md and docs/sglang.md. Sizes in bytes."""

    enabled: bool
    capacity_nbytes: int | None
    """None: `input_ring` chooses."""
    segment_nbytes: int
    threshold_nbytes: int
    writable: bool
    """Whether engines map segments writable."""
    on_full: OnFull = "inline"
    returns: bool = True
    """Whether big tensors in outputs come by handle."""
    log_level: str | None = None
    """None: vLLM's own."""
    backing: BackingChoice = "auto"

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ, *, backing: BackingChoice = "auto") -> Self:
        """Raises `ConfigError` that names the variable, what it holds and what it takes. ``backing`` is the engine's
        own choice, where SHMTRANSPORT_BACKING says nothing.

        With SHMTRANSPORT_ENABLE=0 nothing else is looked at: the kill switch works whatever the others hold.
        """
        if not _switch(environment, "ENABLE", "1"):
            return cls(False, None, 0, 0, False)
        pinned_budget_nbytes(environment)  # `cuda` looks at it, in workers
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
            backing=cast(BackingChoice, _choice(environment, "BACKING", backing, get_args(BackingChoice))),
            log_level=_choice(environment, "LOG_LEVEL", "", ("", *_LEVELS)).upper() or None,
        )

    def input_ring(self, cache_gib: float, frontends: int) -> RingSize:
        """For the ring of one of ``frontends`` processes.

        What was asked for; else room for vLLM's multimodal cache (``cache_gib``: the engine's cache keeps blocks)
        and a GiB for what is on its way, but at most half of what is free, shared by all.
        """
        frontends = max(frontends, 1)
        wanted_nbytes = int(max(cache_gib, 0.0) * _GIB) + _GIB
        if self.capacity_nbytes is not None:
            return RingSize(self._backing(self.capacity_nbytes).NAME, self.capacity_nbytes, self.segment_nbytes)
        backing = self._backing(2 * wanted_nbytes * frontends)
        capacity_nbytes = min(wanted_nbytes, backing.free_nbytes()[0] // 2 // frontends)
        return RingSize(backing.NAME, max(capacity_nbytes, SEGMENT_UNIT_NBYTES), self.segment_nbytes)

    def return_ring(self) -> RingSize:
        """For an EngineCore's outputs: 512 MiB in steps of 32 MiB, or what was asked for if that is less, and at most
        an eighth of what is free in /dev/shm. What comes back is its user's to write into, and that rules memfd out."""
        free_nbytes, _ = segment.BY_NAME["posix"].free_nbytes()
        capacity_nbytes = max(
            min(self.capacity_nbytes or 512 * _MIB, 512 * _MIB, free_nbytes // 8), SEGMENT_UNIT_NBYTES
        )
        return RingSize("posix", capacity_nbytes, min(self.segment_nbytes, 32 * _MIB, capacity_nbytes))

    def _backing(self, nbytes: int) -> Backing:
        """Where so many bytes fit. Sealed segments cannot be mapped writable."""
        return segment.choose("posix" if self.writable else self.backing, nbytes)
