"""What becomes of a text-sized message while requests of 96 MB go the same way.

Texts go alone and beside such requests by turns, since a machine's speed drifts; percentiles are those of all turns.
"""

from typing import Final

from bench.interferences.figures import Row, percentile
from bench.interferences.request import IMAGES, TEXT_NBYTES
from bench.interferences.service import Service, Took

NAME: Final = "text latency"
TARGET: Final = 1.5
"""Of the loaded over the unloaded 99th percentile, for this project."""
TEXTS_PER_S: Final = 500
REQUESTS_PER_S: Final = 4
WARM_UP_S: Final = 0.5
TURNS: Final = 8
SECONDS: Final = 4.0
QUICK_TURNS: Final = 2
QUICK_SECONDS: Final = 1.5
"""Of each of a turn's two halves."""


def _half(service: Service, seconds: float, *, loaded: bool) -> Took:
    requests = round(seconds * REQUESTS_PER_S) if loaded else 0
    return service.texts(round(seconds * TEXTS_PER_S), 1 / TEXTS_PER_S, requests, 1 / REQUESTS_PER_S)


def measure(service: Service, subject: str, *, quick: bool) -> Row:
    """One row; `target` and `met` where there is one."""
    turns, seconds = (QUICK_TURNS, QUICK_SECONDS) if quick else (TURNS, SECONDS)
    _half(service, WARM_UP_S, loaded=True)
    unloaded: list[float] = []
    loaded: list[float] = []
    requests: list[float] = []
    for _ in range(turns):
        unloaded += _half(service, seconds, loaded=False).texts
        took = _half(service, seconds, loaded=True)
        loaded += took.texts
        requests += took.requests
    ratio = percentile(loaded, 99) / percentile(unloaded, 99)
    row: Row = {
        "experiment": NAME,
        "subject": subject,
        "text_nbytes": TEXT_NBYTES,
        "texts_per_s": TEXTS_PER_S,
        "request_nbytes": IMAGES.nbytes,
        "requests_per_s": REQUESTS_PER_S,
        "texts": len(loaded),
        "requests": len(requests),
    }
    for name, values in (("unloaded", unloaded), ("loaded", loaded)):
        row |= {f"{name}_p{digits}_ms": percentile(values, p) for digits, p in (("50", 50), ("99", 99), ("999", 99.9))}
    row |= {"ratio_p99": ratio, "request_p50_ms": percentile(requests, 50), "verified": True}
    if subject.startswith("shmtransport"):
        row |= {"target": TARGET, "met": ratio <= TARGET}
    return row
