"""The plots of the report, as SVG, for a light and a dark page; the same rows give the same bytes.

Text is drawn as outlines of matplotlib's own font, so that a plot looks alike wherever it is read. Colours are those of
Okabe and Ito that stand out from either page; where there are more lines than colours, markers and dashes tell them
apart, and each line bears its name at its end.
"""

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from bench.gemma3 import table

Row = dict[str, Any]

OWN: Final = "shmtransport"
FLOOR: Final = "floor"
LEAST_GAP: Final = 0.034
"""Between the names of lines, of the height."""


class Theme(NamedTuple):
    """Of a page."""

    page: str
    ink: str
    faint: str


THEMES: Final = {"light": Theme("#ffffff", "#1f2328", "#d1d9e0"), "dark": Theme("#0d1117", "#f0f6fc", "#3d444d")}
COLOURS: Final = ("#009e73", "#d55e00", "#0f87c9", "#cc79a7", "#e69f00", "#56b4e9")
MARKERS: Final = ("o", "s", "^", "D", "v")
DASHES: Final = ("-", "--", ":")


@contextmanager
def drawing(theme: Theme, width: float, height: float) -> Iterator[Figure]:
    """A figure of so many inches, in the page's colours."""
    settings = {
        "svg.hashsalt": OWN,
        "svg.fonttype": "path",
        "font.family": "DejaVu Sans",
        "font.size": 10,
        "text.color": theme.ink,
        "axes.labelcolor": theme.ink,
        "axes.edgecolor": theme.ink,
        "axes.facecolor": theme.page,
        "figure.facecolor": theme.page,
        "xtick.color": theme.ink,
        "ytick.color": theme.ink,
        "grid.color": theme.faint,
        "legend.frameon": False,
    }
    with mpl.rc_context(settings):
        yield Figure(figsize=(width, height), layout="constrained")


def as_svg(figure: Figure) -> str:
    """Without a date, and without the version that drew it."""
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    return file.getvalue()


def spread(heights: Sequence[float], gap: float) -> list[float]:
    """``heights`` up to 1, moved as little as it takes to lie ``gap`` apart, in their order."""
    order = sorted(range(len(heights)), key=lambda number: heights[number])
    places = [heights[number] for number in order]
    for number in range(1, len(places)):
        places[number] = max(places[number], places[number - 1] + gap)
    highest = 1.0
    for number in reversed(range(len(places))):
        places[number] = min(places[number], highest)
        highest = places[number] - gap
    return [places[order.index(number)] for number in range(len(heights))]


def lines_of(rows: Sequence[Row]) -> dict[str, list[tuple[float, float]]]:
    """Bytes and milliseconds of each rival, where a request is one tensor that lies in one piece."""
    found: dict[str, list[tuple[float, float]]] = {}
    for row in sorted(rows, key=lambda row: int(row["payload_nbytes"])):
        if row["median_ms"] is not None and row["tensors"] == 1 and "sliced" not in row["payload"]:
            found.setdefault(row["rival"], []).append((row["payload_nbytes"], row["median_ms"]))
    return found


def time_against_bytes(rows: Sequence[Row], theme: Theme) -> str:
    """Log-log, one line a rival, this project's and the floor's thicker."""
    lines = lines_of(rows)
    with drawing(theme, 10.0, 7.5) as figure:
        axes = figure.subplots()
        axes.set(xscale="log", yscale="log", xlabel="a request of one tensor", ylabel="median, milliseconds")
        axes.xaxis.set_major_formatter(EngFormatter(unit="B"))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.grid(which="major", linewidth=0.6)
        others = [name for name in lines if name not in (OWN, FLOOR)]
        for name, points in lines.items():
            axes.plot(*zip(*points, strict=True), label=name, markersize=4, **_look(name, others, theme))
        _name_lines(axes, lines, theme)
        return as_svg(figure)


def _look(name: str, others: Sequence[str], theme: Theme) -> dict[str, Any]:
    if name == OWN:
        return {"color": COLOURS[0], "linewidth": 3.5, "marker": "o", "zorder": 5}
    if name == FLOOR:
        return {"color": theme.ink, "linewidth": 2.0, "linestyle": "--", "zorder": 6}
    number = others.index(name)
    return {
        "color": COLOURS[1:][number % (len(COLOURS) - 1)],
        "marker": MARKERS[number % len(MARKERS)],
        "linestyle": DASHES[number // (len(COLOURS) - 1) % len(DASHES)],
        "linewidth": 1.2,
    }


def _name_lines(axes: Any, lines: Mapping[str, Sequence[tuple[float, float]]], theme: Theme) -> None:
    """Each name beside its line's end, moved apart from its neighbours, with a thread to it."""
    axes.autoscale_view()
    to_axes = axes.transData + axes.transAxes.inverted()
    ends = [float(to_axes.transform(points[-1])[1]) for points in lines.values()]
    for (name, points), height in zip(lines.items(), spread(ends, LEAST_GAP), strict=True):
        axes.annotate(
            name,
            xy=points[-1],
            xytext=(1.03, height),
            textcoords="axes fraction",
            va="center",
            fontweight="bold" if name == OWN else "normal",
            arrowprops={
                "arrowstyle": "-",
                "relpos": (0, 0.5),
                "color": theme.faint,
                "shrinkA": 0,
                "shrinkB": 3,
                "linewidth": 0.8,
            },
        )


def bars_of_issue(rows: Sequence[Row], theme: Theme) -> str:
    """Seconds of each way, a group of bars a number of images, on a log scale; above them, how many times by handle."""
    ways = list(dict.fromkeys(row["way"] for row in rows))
    counts = list(dict.fromkeys(row["images"] for row in rows))
    width = 0.8 / len(ways)
    with drawing(theme, 9.0, 5.0) as figure:
        axes = figure.subplots()
        axes.set(yscale="log", xlabel="images of 896 x 896 in a request", ylabel="seconds, frontend to engine")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.margins(y=0.16)
        axes.set_xticks(range(len(counts)), map(str, counts))
        axes.grid(axis="y", linewidth=0.6)
        axes.set_axisbelow(True)
        for number, way in enumerate(ways):
            own = [row for row in rows if row["way"] == way]
            places = [counts.index(row["images"]) + (number - (len(ways) - 1) / 2) * width for row in own]
            colour = COLOURS[0] if way == table.OWN else COLOURS[1:][number % (len(COLOURS) - 1)]
            bars = axes.bar(places, [row["transport_seconds"] for row in own], width * 0.92, label=way, color=colour)
            if way != table.OWN:
                times = [f"{row['ratio_to_handle']:.3g} ×" for row in own]
                axes.bar_label(bars, times, rotation=90, padding=3, fontsize=7)
        figure.legend(loc="outside upper center", ncols=3)
        return as_svg(figure)


def drawn(rows: Mapping[str, Sequence[Row]]) -> dict[str, str]:
    """Every plot that the rows of the benchmarks give, by name and theme."""
    made: dict[str, str] = {}
    for name, theme in THEMES.items():
        if "compare" in rows:
            made[f"time-{name}"] = time_against_bytes(rows["compare"], theme)
        if "issue_16461" in rows:
            made[f"issue-16461-{name}"] = bars_of_issue(rows["issue_16461"], theme)
    return made
