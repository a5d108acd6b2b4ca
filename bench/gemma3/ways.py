"""How to make the two ends of each way. `table.WAYS` has their names."""

from collections.abc import Callable
from typing import Final, NamedTuple

from bench.gemma3 import handle, table, today, v083
from bench.gemma3.way import Engine, Frontend


class Way(NamedTuple):
    """A way's frontend and engine."""

    frontend: Callable[[int], Frontend]
    """Called with the bytes of the largest request."""
    engine: Callable[[], Engine]
    keeps_nbytes: int = 0
    """Of earlier images, in the engine; the others keep none."""


ALL: Final = {
    table.PICKLED: Way(lambda _: v083.Pickled(), v083.Unpickling),
    table.TOGETHER: Way(lambda _: v083.Together(), v083.Unpickling),
    table.PATCHED: Way(lambda _: v083.Patched(), v083.UnpicklingArrays),
    table.TODAY: Way(lambda _: today.InFrames(), today.FromFrames),
    table.CACHED: Way(lambda _: today.InFrames(), today.FromFrames, table.CACHE_NBYTES),
    table.OWN: Way(handle.ByHandle, handle.FromRing),
}
