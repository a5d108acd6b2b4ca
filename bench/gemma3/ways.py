"""The ways, by name, in the order of history."""

from collections.abc import Callable
from typing import Final, NamedTuple

from bench.gemma3 import handle, table, today, v083
from bench.gemma3.way import Engine, Frontend


class Way(NamedTuple):
    """How to make its two ends."""

    frontend: Callable[[int], Frontend]
    """Called with the bytes of the largest request."""
    engine: Callable[[], Engine]
    most_images: int = max(table.IMAGES)


ALL: Final = {
    table.PICKLED: Way(lambda _: v083.Pickled(), v083.Unpickling),
    table.TOGETHER: Way(lambda _: v083.Together(), v083.Unpickling, most_images=10),
    table.PATCHED: Way(lambda _: v083.Patched(), v083.Unpickling),
    table.TODAY: Way(lambda _: today.InFrames(), today.FromFrames),
    table.OWN: Way(handle.ByHandle, handle.FromRing),
}
