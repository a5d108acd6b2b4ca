"""By how much a frontend's event loop is late while it stages and sends requests of 96 MB.

A stall is the longest delay of a tick in the half second that begins with a request; without any requests it is what
the machine alone does in half a second.
"""

import statistics
from itertools import chain
from typing import Final

from bench.interferences.figures import Row, percentile
from bench.interferences.frontend import TICK_S
from bench.interferences.request import IMAGES
from bench.interferences.service import Service

NAME: Final = "event-loop delay"
PERIOD_S: Final = 0.5
PERIODS: Final = 40
QUICK_PERIODS: Final = 5
WARM_UPS: Final = 2


def measure(service: Service, subject: str, *, quick: bool) -> Row:
    """One row."""
    periods = QUICK_PERIODS if quick else PERIODS
    service.ticks(WARM_UPS, PERIOD_S, loaded=True)
    quiet = service.ticks(max(2, periods // 2), PERIOD_S, loaded=False)
    loaded = service.ticks(periods, PERIOD_S, loaded=True)
    late, late_alone = (list(chain.from_iterable(found)) for found in (loaded, quiet))
    return {
        "experiment": NAME,
        "subject": subject,
        "tick_ms": TICK_S * 1e3,
        "request_nbytes": IMAGES.nbytes,
        "requests_per_s": 1 / PERIOD_S,
        "requests": periods,
        "alone_p99_ms": percentile(late_alone, 99),
        "alone_stall_ms": statistics.median(map(max, quiet)),
        "p50_ms": percentile(late, 50),
        "p99_ms": percentile(late, 99),
        "stall_ms": statistics.median(map(max, loaded)),
        "longest_ms": max(late),
        "verified": True,
    }
