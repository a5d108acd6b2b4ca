"""Bytes that an image becomes, by model family, and what capacity follows: the tables of docs/sizing.md.

What a processor makes of an image is told by the values of the family's ``preprocessor_config.json``;
tests/vllm/test_sizing.py holds it against the processors themselves.
"""

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

from bench.report import RESULTS, Row, markdown_table, results_in
from shmtransport.formatting import size

BFLOAT16_NBYTES: Final = 2
HEADROOM: Final = 1.2
"""A fifth more than what is alive at once."""
CACHE_GIB: Final = 4
"""vLLM's default of mm_processor_cache_gb."""
GIB: Final = 1 << 30
SIZES: Final = ((640, 480), (1920, 1080), (4032, 3024))
IN_FLIGHT: Final = (8, 32, 128, 512)


class Family(NamedTuple):
    """One preprocessing."""

    name: str
    makes: str
    elements: Callable[[int, int], int]
    """Of an image so wide and so high."""
    most: bool = False
    """Whether some images take less: what is told is the most that one of any size takes."""


def tiles(count: int, side: int) -> Callable[[int, int], int]:
    """So many squares of RGB, whatever the image."""
    return lambda _width, _height: count * 3 * side * side


def patches(patch: int, least_pixels: int, most_pixels: int) -> Callable[[int, int], int]:
    """Patches as Qwen's processors cut them: of an image of a multiple of two patches, each twice, as two frames."""
    unit = 2 * patch

    def elements(width: int, height: int) -> int:
        sides = [round(side / unit) * unit for side in (width, height)]
        if math.prod(sides) > most_pixels:
            shrink = math.sqrt(width * height / most_pixels)
            sides = [max(unit, math.floor(side / shrink / unit) * unit) for side in (width, height)]
        elif math.prod(sides) < least_pixels:
            stretch = math.sqrt(least_pixels / (width * height))
            sides = [math.ceil(side * stretch / unit) * unit for side in (width, height)]
        return 2 * 3 * math.prod(sides)

    return elements


FAMILIES: Final = (
    Family("LLaVA 1.5", "336²", tiles(1, 336)),
    Family("LLaVA-NeXT (1.6)", "336², up to 4 tiles and the whole", tiles(5, 336), most=True),
    Family("Gemma 3", "896²", tiles(1, 896)),
    Family("Gemma 3, pan and scan", "896², up to 4 crops and the whole", tiles(5, 896), most=True),
    Family("InternVL 3", "448², up to 12 tiles and the whole", tiles(13, 448), most=True),
    Family("Qwen2-VL, Qwen2.5-VL", "its own pixels, in patches of 14, twice", patches(14, 56 * 56, 12_845_056)),
    Family("Qwen3-VL", "its own pixels, in patches of 16, twice", patches(16, 256 * 256, 4096 * 4096)),
)


def nbytes_of(family: Family, width: int, height: int) -> int:
    """In bfloat16."""
    return family.elements(width, height) * BFLOAT16_NBYTES


def capacity_nbytes(nbytes: int, in_flight: int) -> int:
    """For so many images of ``nbytes`` that are alive at once."""
    return math.ceil(HEADROOM * nbytes * in_flight)


def parts() -> dict[str, str]:
    """Markdown, by the name of its place."""
    return {"bytes an image": _images(), "capacities": _capacities(), "fragmentation": _fragmentation()}


def _images() -> str:
    def cells(family: Family) -> Iterable[str]:
        yield from (family.name, family.makes)
        for width, height in SIZES:
            yield f"{'≤ ' * family.most}{nbytes_of(family, width, height) / 1e6:.3g} MB"

    sizes = (f"{width} × {height}" for width, height in SIZES)
    return markdown_table(("model family", "an image becomes", *sizes), [tuple(cells(family)) for family in FAMILIES])


def _capacities() -> str:
    width, height = SIZES[1]

    def cells(family: Family) -> Iterable[str]:
        nbytes = nbytes_of(family, width, height)
        yield family.name
        for count in IN_FLIGHT:
            yield size(capacity_nbytes(nbytes, count))
        yield f"{int(GIB / HEADROOM / nbytes):,}"
        yield f"{CACHE_GIB * GIB // nbytes:,}"

    in_flight = (f"{count} in flight" for count in IN_FLIGHT)
    head = ("model family", *in_flight, "fit into 1 GiB", f"cached in {CACHE_GIB} GiB")
    return markdown_table(head, [tuple(cells(family)) for family in FAMILIES])


def _fragmentation() -> str:
    """Means over the day, by load."""
    interference = results_in(RESULTS)["interference"]
    days: dict[int, list[Row]] = {}
    for row in interference.rows:
        if row["experiment"] == "fragmentation":
            days.setdefault(row["load_percent"], []).append(row)
    rows = []
    for quarters in days.values():
        means = [100 * mean(quarters, "occupancy"), mean(quarters, "failed_fragmented_percent")]
        rows.append([f"{value:.2g} %" for value in means])
    return f"{markdown_table(('of the ring in use', 'went inline'), rows)}\n{interference.facts()}"


def mean(rows: Sequence[Row], column: str) -> float:
    return statistics.fmean(row[column] for row in rows)
