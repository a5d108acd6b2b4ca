"""What the figures are to reach, and whether they did: issue by issue what was asked for, from the rows alone."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from bench.gemma3 import table

Row = dict[str, Any]
Rows = Mapping[str, Sequence[Row]]
"""By benchmark."""

ONE, TEN = "9.6 MB", "10 x 9.6 MB"
RATE, PLAIN = "ratio_to_pinned", "unregistered ring"
LARGE_NBYTES = 1_000_000
NO_RIVALS = ("shmtransport", "floor", "bare message")
"""What the names of those begin with that are not to be beaten."""


class Aim(NamedTuple):
    """A bound on a figure; ``measure`` answers None where there is none."""

    words: str
    measure: Callable[[Rows], float | None]
    bound: float
    at_least: bool = True
    unit: str = ""

    def reached(self, measured: float) -> bool:
        return measured >= self.bound if self.at_least else measured <= self.bound


def _compared(rows: Rows, rival: str, payload: str, key: str) -> float | None:
    for row in rows.get("compare", ()):
        if (row["rival"], row["payload"]) == (rival, payload) and row.get(key) is not None:
            return float(row[key])
    return None


def slower(rival: str, payload: str, times: float) -> Aim:
    """A rival is to take so many times as long as shmtransport."""
    words = f"{payload}: {rival} takes at least {times:g} times as long"
    return Aim(words, lambda rows: _compared(rows, rival, payload, "ratio_to_shmtransport"), times)


def above_floor(payload: str) -> Aim:
    """How much longer than the floor."""

    def measure(rows: Rows) -> float | None:
        floor = _compared(rows, "floor", payload, "ratio_to_shmtransport")
        return None if floor is None else 1 / floor

    return Aim(f"{payload}: at most 1.15 times the floor", measure, 1.15, at_least=False)


def over_bare_message(rows: Rows) -> float | None:
    """Microseconds that 64 KB take on top of a message."""
    bare = _compared(rows, "bare message", "64 KB", "median_ms")
    own = _compared(rows, "bare message", "64 KB", "shmtransport_median_ms")
    return None if bare is None or own is None else (own - bare) * 1e3


def growth_in_place(rows: Rows) -> float | None:
    """482 MB over 1 MB."""
    found = [float(row["ratio_to_1_mb"]) for row in rows.get("in_place", ()) if row["payload"] == "482 MB"]
    return found[0] if found else None


def slower_in_issue(way: str, times: int) -> Aim:
    """The same of vLLM's issue 16461."""

    def measure(rows: Rows) -> float | None:
        for row in rows.get("issue_16461", ()):
            if (row["way"], row["images"]) == (way, max(table.IMAGES)):
                return float(row["ratio_to_handle"])
        return None

    return Aim(f"{max(table.IMAGES)} images: {way} takes at least {times} times as long as by handle", measure, times)


def to_device(payload: str, way: str, key: str, to: str | None = None) -> Callable[[Rows], float | None]:
    """A figure of `gpu.py`, or how many times that of the way ``to`` it is."""

    def measure(rows: Rows) -> float | None:
        found = {row["way"]: float(row[key]) for row in rows.get("gpu", ()) if row["payload"] == payload and key in row}
        if way not in found or (to is not None and to not in found):
            return None
        return found[way] / (1 if to is None else found[to])

    return measure


def on_two_gpus(images: int, key: str, *, over_off: bool = False) -> Callable[[Rows], float | None]:
    """Percent with the plugin on, of `gpu_vllm.py` with tensor parallelism 2; ``over_off``: how much less than off."""

    def measure(rows: Rows) -> float | None:
        found = {row["plugin"]: float(row[key]) for row in rows.get("gpu_vllm_tp2", ()) if row["images"] == images}
        if not found:
            return None
        return 100 * (1 - found[True] / found[False]) if over_off else 100 * found[True]

    return measure


AIMS: Sequence[Aim] = (
    above_floor(ONE),
    above_floor(TEN),
    Aim("64 KB: at most 30 us more than a bare message", over_bare_message, 30.0, at_least=False, unit=" us"),
    slower("iceoryx2", ONE, 1.3),
    slower("kickmsg", ONE, 1.3),
    slower("vLLM (direct_rpc)", TEN, 8),
    slower("vLLM (torch_shm)", TEN, 8),
    slower("vLLM shm cache", TEN, 5),
    slower("SGLang's pattern", TEN, 12),
    slower("pickle over ZMQ", TEN, 30),
    Aim("in place: 482 MB take at most 1.2 times as long as 1 MB", growth_in_place, 1.2, at_least=False),
    *(slower_in_issue(way, times) for way, times in table.TARGETS.items()),
    *(
        Aim(f"to the GPU, {payload}: at least 0.97 of pinned memory's rate", to_device(payload, "ring", RATE), 0.97)
        for payload in ("1 MB", "9.6 MB", "64 MB", "482 MB")
    ),
    Aim("to the GPU, 482 MB: at least 6 times the unregistered ring's", to_device("482 MB", "ring", "gbps", PLAIN), 6),
    Aim(
        "frontend to GPU, 100 images: at most 1.3 times the copy and the DMA alone",
        to_device("100 x 4.8 MB", "shmtransport", "ratio_to_floor"),
        1.3,
        at_least=False,
    ),
    *(
        Aim(
            f"vLLM on two GPUs, {images} images: transport at most 3 % of the request",
            on_two_gpus(images, "transport_share"),
            3,
            at_least=False,
            unit=" %",
        )
        for images in (10, 50)
    ),
    Aim(
        "vLLM on two GPUs, 10 images: the request is shorter by at least 12 %",
        on_two_gpus(10, "request_seconds", over_off=True),
        12,
        unit=" %",
    ),
)


def lines(rows: Rows) -> list[list[str]]:
    """Each aim with what was measured and whether that is enough; those without a figure are left out."""
    every = [*AIMS, *_no_rival_is_faster(rows)]
    measured = [(aim, aim.measure(rows)) for aim in every]
    return [
        [aim.words, f"{figure:.3g}{aim.unit}", "reached" if aim.reached(figure) else "**missed**"]
        for aim, figure in measured
        if figure is not None
    ]


def _no_rival_is_faster(rows: Rows) -> Iterator[Aim]:
    """At payloads of a megabyte and more; what would be said of each that is slower is said once."""
    large = [row for row in rows.get("compare", ()) if row["payload_nbytes"] >= LARGE_NBYTES and row["median_ms"]]
    ratios = [row["ratio_to_shmtransport"] for row in large if not row["rival"].startswith(NO_RIVALS)]
    if ratios:
        least = min(ratios)
        yield Aim("every rival, 1 MB and more: takes longer", lambda _: least, 1.0)
