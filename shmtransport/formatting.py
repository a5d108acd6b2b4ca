"""Sizes and times as people read them."""

from typing import Final

GIB: Final = 1 << 30
_UNITS: Final = ("bytes", "KiB", "MiB", "GiB", "TiB")
_STEPS: Final = ((86400.0, "d"), (3600.0, "h"), (60.0, "min"), (1.0, "s"), (1e-3, "ms"))


def size(nbytes: int) -> str:
    """At most 8 characters below 1000 TiB, but for bytes: ``8.0 MiB``, ``512 MiB``."""
    power = min((max(nbytes, 1).bit_length() - 1) // 10, 4)
    value = nbytes / 1024**power
    return f"{value:.0f} {_UNITS[power]}" if value >= 99.95 or power == 0 else f"{value:.1f} {_UNITS[power]}"


def duration(seconds: float) -> str:
    """At most 7 characters up to 999 days: ``3.2 s``, ``45 min``, ``12 d``."""
    step, unit = next(((step, unit) for step, unit in _STEPS if seconds >= step), _STEPS[-1])
    value = seconds / step
    return f"{value:.1f} {unit}" if unit in {"s", "ms"} and value < 9.95 else f"{value:.0f} {unit}"
