"""The table of issue 16461: names, what was published, what is to be reached. Needs no vLLM."""

from collections.abc import Iterator, Sequence
from typing import Any, Final

Row = dict[str, Any]

OWN: Final = "by handle"
PICKLED: Final = "v0.8.3"
TOGETHER: Final = "v0.8.3, views of one batch"
PATCHED: Final = "numpy patch"
TODAY: Final = "vLLM today"
CACHED: Final = "vLLM today, cache full"

IMAGES: Final = (1, 10, 20, 30, 40, 50, 100)
WAYS: Final = {PICKLED: 100, TOGETHER: 10, PATCHED: 100, TODAY: 100, CACHED: 100, OWN: 100}
"""The ways, in the order of history, and the most images of each."""
CACHE_NBYTES: Final = 1 << 30
"""Of images that the engine with a cache keeps; vLLM's is 4 GiB by default."""
PUBLISHED_SECONDS: Final = {
    PICKLED: dict(zip(IMAGES, (1.211, 9.676, 18.652, 27.539, 35.828, 45.106, 269.967), strict=True)),
    PATCHED: dict(zip(IMAGES, (1.339, 4.058, 5.655, 6.931, 8.038, 9.115, 24.337), strict=True)),
}
"""github.com/vllm-project/vllm/issues/16461: gemma-3-12b on two A100, vLLM 0.8.3, one request, from end to end."""
TARGETS: Final = {PICKLED: 40, TODAY: 5}
"""How many times as long as by handle each must take at the most images."""


def as_table(rows: Sequence[Row]) -> str:
    """Markdown."""
    lines = ["| images | way | frontend s | engine s | transport s | times by handle | bytes on the wire |"]
    lines[0] += " memory of frontend, engine, MB | CPU s | published s |"
    lines.append("|---" * 10 + "|")
    for row in rows:
        published = row["published_seconds"]
        lines.append(
            f"| {row['images']} | {row['way']} | {row['frontend_seconds']:.4f} | {row['engine_seconds']:.4f} "
            f"| {row['transport_seconds']:.4f} | {row['ratio_to_handle']:.1f} | {row['wire_nbytes']:,} "
            f"| {row['frontend_growth_nbytes'] / 1e6:,.0f}, {row['engine_growth_nbytes'] / 1e6:,.0f} "
            f"| {row['cpu_seconds']:.3f} | {'' if published is None else published} |"
        )
    return "\n".join(lines)


def targets(rows: Sequence[Row]) -> Iterator[str]:
    """What is to be reached with the most images, and what was, in words."""
    ratios = {row["way"]: row["ratio_to_handle"] for row in rows if row["images"] == max(IMAGES)}
    for name, aim in TARGETS.items():
        if name in ratios:
            reached = "reached" if ratios[name] >= aim else "missed"
            yield (
                f"{max(IMAGES)} images: transport by handle is to be at most 1/{aim} of {name}: "
                f"1/{ratios[name]:.1f}, {reached}"
            )
