"""What this project sets out to reach, as ratios of one run: the rival's time over ours, or ours over the floor's."""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

Row = dict[str, Any]
ONE: Final = "9.6 MB"
TEN: Final = "10 x 9.6 MB"
FLOOR: Final = "floor"
LEAST_NBYTES: Final = 1_000_000
"""From here on every rival is to be slower."""
NO_RIVALS: Final = ("shmtransport", FLOOR, "bare message")
"""What the name of no rival begins with."""


class Target(NamedTuple):
    """A least ratio to one rival at one payload."""

    rival: str
    payload: str
    least: float


TARGETS: Final[Sequence[Target]] = (
    Target(FLOOR, ONE, 1 / 1.15),
    Target(FLOOR, TEN, 1 / 1.15),
    Target("iceoryx2", ONE, 1.3),
    Target("kickmsg", ONE, 1.3),
    Target("vLLM (direct_rpc)", TEN, 8),
    Target("vLLM (torch_shm)", TEN, 8),
    Target("vLLM shm cache", TEN, 5),
    Target("SGLang's pattern", TEN, 12),
    Target("pickle over ZMQ", TEN, 30),
)
MOST_MICROSECONDS_ABOVE_A_BARE_MESSAGE: Final = 30.0
"""At 64 KB."""
MOST_GROWTH_IN_PLACE: Final = 1.2
"""482 MB over 1 MB."""


class Verdict(NamedTuple):
    """One target, and what the rows say of it."""

    what: str
    expected: str
    got: str
    met: bool


def verdicts(rows: Sequence[Row]) -> list[Verdict]:
    """Of every target that the rows can tell anything about."""
    timed = {(row["rival"], row["payload"]): row for row in rows if row["median_ms"] is not None}
    found = [_least(target, timed[target.rival, target.payload]) for target in TARGETS if target[:2] in timed]
    for (rival, payload), row in timed.items():
        if row["payload_nbytes"] >= LEAST_NBYTES and not rival.startswith(NO_RIVALS):
            found.append(_least(Target(rival, payload, 1.0), row))
    found += _bare(timed)
    found += _in_place(timed)
    return found


def _least(target: Target, row: Row) -> Verdict:
    ratio = row["ratio_to_shmtransport"]
    what = f"{target.rival} over shmtransport, {target.payload}"
    return Verdict(what, f">= {target.least:.2f}", f"{ratio:.2f}", ratio >= target.least)


def _bare(timed: dict[tuple[str, str], Row]) -> list[Verdict]:
    bare = timed.get(("bare message", "64 KB"))
    if bare is None:
        return []
    above_us = (bare["shmtransport_median_ms"] - bare["median_ms"]) * 1e3
    most = MOST_MICROSECONDS_ABOVE_A_BARE_MESSAGE
    what = "shmtransport above a message without payload, 64 KB"
    return [Verdict(what, f"<= {most:.0f} us", f"{above_us:.0f} us", above_us <= most)]


def _in_place(timed: dict[tuple[str, str], Row]) -> list[Verdict]:
    small, large = (timed.get(("shmtransport in place", payload)) for payload in ("1 MB", "482 MB"))
    if small is None or large is None:
        return []
    growth = large["median_ms"] / small["median_ms"]
    what = "shmtransport in place, 482 MB over 1 MB"
    return [Verdict(what, f"<= {MOST_GROWTH_IN_PLACE}", f"{growth:.2f}", growth <= MOST_GROWTH_IN_PLACE)]
