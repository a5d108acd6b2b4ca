"""Parameters as people write them, checked before anything is touched."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, get_args

from shmtransport.errors import ConfigError

OnFull = Literal["inline", "block", "raise"]
"""What a ring without room does: `Ring.create` says what each means. Plain text: any thread, after a fork too."""
BackingName = Literal["posix", "memfd"]
BackingChoice = Literal["auto", "posix", "memfd"]
BACKINGS: Final[tuple[BackingName, ...]] = get_args(BackingName)

_UNITS = {"": 1, "B": 1}
_UNITS |= {f"{prefix}B": 1000**power for power, prefix in enumerate("KMGT", 1)}
_UNITS |= {f"{prefix}IB": 1024**power for power, prefix in enumerate("KMGT", 1)}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?I?B|)\s*", re.ASCII)
_TAKES_SIZE = 'a number of bytes or a size such as "1GiB" or "512 MB"'

# Rounding unit of segments; a block never crosses a segment's end.
SEGMENT_UNIT_NBYTES = 4096
# Offsets and sizes are 64-bit; a tebibyte is beyond any host and keeps every sum far from overflow.
LARGEST_NBYTES = 1 << 44


def parse_size(parameter: str, value: int | str, *, smallest: int = 1) -> int:
    """Bytes in ``value``: an int, or text with an optional unit (kB = 1000, KiB = 1024, any case)."""
    if isinstance(value, str):
        match = _SIZE.fullmatch(value.upper())
        if match is None:
            raise ConfigError(parameter, value, _TAKES_SIZE)
        nbytes = int(float(match[1]) * _UNITS[match[2]]) if "." in match[1] else int(match[1]) * _UNITS[match[2]]
    elif isinstance(value, int) and not isinstance(value, bool):
        nbytes = value
    else:
        raise ConfigError(parameter, value, _TAKES_SIZE)
    if not smallest <= nbytes <= LARGEST_NBYTES:
        raise ConfigError(parameter, value, f"{_TAKES_SIZE} from {smallest} to {LARGEST_NBYTES}")
    return nbytes


PINNED: Final = "SHMTRANSPORT_PINNED"


def pinned_budget_nbytes(environment: Mapping[str, str] = os.environ) -> int:
    """How much ring memory this process may register for DMA: ``SHMTRANSPORT_PINNED``, a size, 0 for none; half of the
    host's memory if it is not set. Raises `ConfigError`."""
    text = environment.get(PINNED)
    if text is None:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    return parse_size(PINNED, text, smallest=0)


def round_up(nbytes: int, unit: int) -> int:
    """The least multiple of ``unit`` that is not below ``nbytes``."""
    return -(-nbytes // unit) * unit


def check_on_full(on_full: str) -> None:
    """Raises `ConfigError` for what is no answer to a full ring."""
    if on_full not in get_args(OnFull):
        raise ConfigError("on_full", on_full, 'one of "inline", "block", "raise"')


@dataclass(frozen=True, slots=True)
class RingConfig:
    """What a ring is made of. Build it with `RingConfig.checked`."""

    capacity_nbytes: int
    segment_nbytes: int
    entries: int
    on_full: OnFull
    timeout_s: float
    name: str
    backing: BackingChoice

    @classmethod
    def checked(
        cls,
        *,
        capacity: int | str,
        segment: int | str,
        entries: int | None,
        on_full: OnFull,
        timeout_s: float,
        name: str,
        backing: BackingChoice,
    ) -> "RingConfig":
        capacity_nbytes = parse_size("capacity", capacity, smallest=SEGMENT_UNIT_NBYTES)
        segment_nbytes = parse_size("segment", segment, smallest=SEGMENT_UNIT_NBYTES)
        segment_nbytes = round_up(min(segment_nbytes, capacity_nbytes), SEGMENT_UNIT_NBYTES)
        check_on_full(on_full)
        if backing not in get_args(BackingChoice):
            raise ConfigError("backing", backing, 'one of "auto", "posix", "memfd"')
        if not isinstance(timeout_s, (int, float)) or isinstance(timeout_s, bool) or not 0 <= timeout_s < 1e9:
            raise ConfigError("timeout_s", timeout_s, "seconds, 0 or more and finite")
        if not isinstance(name, str):
            raise ConfigError("name", name, "a text (its first 31 bytes are shown)")
        if entries is None:  # one block of 64 KiB each, within what a process scans in a millisecond
            entries = min(max(capacity_nbytes >> 16, 1024), 16384)
        elif not isinstance(entries, int) or isinstance(entries, bool) or not 1 <= entries <= 1 << 20:
            raise ConfigError("entries", entries, "a number of blocks from 1 to 1048576")
        return cls(
            capacity_nbytes=round_up(capacity_nbytes, SEGMENT_UNIT_NBYTES),
            segment_nbytes=segment_nbytes,
            entries=entries,
            on_full=on_full,
            timeout_s=float(timeout_s),
            name=name,
            backing=backing,
        )
