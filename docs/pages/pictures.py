"""A tensor's way through three processes, with and without, as SVG for a light and a dark page.

What is drawn is said as text: a line a process, its boxes in order. ``pixels`` and ``message`` hold all the bytes,
``handle`` none, ``tensor`` shows bytes that are elsewhere.
"""

from collections.abc import Iterator, Sequence
from html import escape
from itertools import pairwise
from typing import Final, NamedTuple

WITHOUT: Final = """
frontend: pixels, message
EngineCore: message, pixels, message
worker: message, pixels
"""
WITH: Final = """
frontend: pixels, handle
EngineCore: handle, tensor, handle
worker: handle, tensor
"""
SAYS: Final = (
    "A tensor of 9.6 MB from a frontend to an EngineCore to a worker. Without, as pickle over a socket sends it: once "
    "in a message and once as pixels in each process. With shmtransport: copied once, into shared memory; handles of "
    "less than 128 bytes cross the sockets, and both readers map the same bytes."
)

WIDTH: Final = 892
HEIGHT: Final = 440
LEFT: Final = 20
FONT: Final = 'font-family="system-ui, sans-serif" font-size="14"'
BOX: Final = (76, 44)
GAP: Final = 12
BETWEEN: Final = 100
"""Two processes."""


class Theme(NamedTuple):
    """Of a page."""

    page: str
    ink: str
    faint: str
    bytes: str
    handle: str


THEMES: Final = {
    "light": Theme("#ffffff", "#1f2328", "#d1d9e0", "#d55e00", "#00795a"),
    "dark": Theme("#0d1117", "#f0f6fc", "#3d444d", "#d55e00", "#009e73"),
}


class Box(NamedTuple):
    """Its middle, and what stands in it."""

    x: float
    y: float
    kind: str


class Process(NamedTuple):
    """Its left edge, and its boxes in order."""

    name: str
    left: float
    boxes: list[Box]

    @property
    def width(self) -> float:
        return len(self.boxes) * (BOX[0] + GAP) + GAP


def files() -> dict[str, str]:
    """The pictures, by their paths from docs/."""
    return {f"pictures/way-{name}.svg": picture(theme) for name, theme in THEMES.items()}


def processes(text: str, y: float) -> Iterator[Process]:
    """Each process of ``text``, side by side; the middles of its boxes are at the height ``y``."""
    left: float = LEFT
    for line in text.strip().splitlines():
        name, _, kinds = line.partition(": ")
        first = left + GAP + BOX[0] / 2
        boxes = [Box(first + number * (BOX[0] + GAP), y, kind) for number, kind in enumerate(kinds.split(", "))]
        yield (process := Process(name, left, boxes))
        left += process.width + BETWEEN


def picture(theme: Theme) -> str:
    """Both ways, one below the other."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" {FONT}>',
        f"<title>{escape(SAYS)}</title>",
        *(arrowhead(name, colour) for name, colour in (("bytes", theme.bytes), ("handle", theme.handle))),
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="{theme.page}"/>',
        *without(theme, 30),
        *with_it(theme, 210),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def without(theme: Theme, top: float) -> Iterator[str]:
    yield words(
        LEFT, top, "Without: the bytes are in every message, and copied into and out of it", theme.ink, bold=True
    )
    shown = list(processes(WITHOUT, top + 85))
    yield from drawn(shown, theme, top + 20)
    yield from hops(shown, theme.bytes, "bytes", 6, "9.6 MB")


def with_it(theme: Theme, top: float) -> Iterator[str]:
    yield words(LEFT, top, "With: the bytes are copied once, and read where they are", theme.ink, bold=True)
    shown = list(processes(WITH, top + 85))
    yield from drawn(shown, theme, top + 20)
    yield from hops(shown, theme.handle, "handle", 2, "< 128 bytes")
    bar = top + 165
    yield rectangle(LEFT, bar, shown[-1].left + shown[-1].width - LEFT, 44, theme.bytes, filled=True)
    yield words(WIDTH / 2, bar + 27, "a block in shared memory, 9.6 MB", theme.page, anchor="middle", bold=True)
    for box in (box for process in shown for box in process.boxes):
        if box.kind == "pixels":
            yield line((box.x, box.y + BOX[1] / 2), (box.x, bar - 8), theme.bytes, "bytes", 6)
            yield words(box.x + 14, bar - 14, "one copy", theme.bytes)
        elif box.kind == "tensor":
            yield line((box.x, bar), (box.x, box.y + BOX[1] / 2 + 6), theme.handle, "handle", 2, dashed=True)
            yield words(box.x - 12, bar - 14, "no copy", theme.handle, anchor="end")


def drawn(shown: Sequence[Process], theme: Theme, top: float) -> Iterator[str]:
    """Processes and boxes."""
    for process in shown:
        yield rectangle(process.left, top, process.width, 104, theme.faint)
        yield words(process.left + GAP, top + 24, process.name, theme.ink)
        for box in process.boxes:
            full = box.kind in ("pixels", "message")
            colour = theme.bytes if full else theme.handle
            yield rectangle(box.x - BOX[0] / 2, box.y - BOX[1] / 2, *BOX, colour, filled=full)
            yield words(box.x, box.y + 5, box.kind, theme.page if full else colour, anchor="middle")


def hops(shown: Sequence[Process], colour: str, head: str, width: float, text: str) -> Iterator[str]:
    """From the last box of each process to the first of the next."""
    for here, there in pairwise(shown):
        left, right = here.boxes[-1], there.boxes[0]
        yield line((left.x + BOX[0] / 2, left.y), (right.x - BOX[0] / 2 - 6, right.y), colour, head, width)
        yield words((left.x + right.x) / 2, left.y - 14, text, colour, anchor="middle")


def arrowhead(name: str, colour: str) -> str:
    shape = f'<path d="M0 0 L6 3 L0 6 z" fill="{colour}"/>'
    size = 'markerUnits="userSpaceOnUse" markerWidth="16" markerHeight="16" viewBox="0 0 6 6" refX="4" refY="3"'
    return f'<marker id="{name}" {size} orient="auto">{shape}</marker>'


def line(
    begin: tuple[float, float], end: tuple[float, float], colour: str, head: str, width: float, *, dashed: bool = False
) -> str:
    dashes = ' stroke-dasharray="5 4"' if dashed else ""
    return (
        f'<line x1="{begin[0]:g}" y1="{begin[1]:g}" x2="{end[0]:g}" y2="{end[1]:g}" stroke="{colour}" '
        f'stroke-width="{width:g}"{dashes} marker-end="url(#{head})"/>'
    )


def rectangle(x: float, y: float, width: float, height: float, colour: str, *, filled: bool = False) -> str:
    return (
        f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="6" stroke="{colour}" '
        f'fill="{colour if filled else "none"}"/>'
    )


def words(x: float, y: float, text: str, colour: str, *, anchor: str = "start", bold: bool = False) -> str:
    weight = ' font-weight="bold"' * bold
    return f'<text x="{x:g}" y="{y:g}" fill="{colour}" text-anchor="{anchor}"{weight}>{escape(text)}</text>'
