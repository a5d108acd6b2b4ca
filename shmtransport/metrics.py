"""Rings as Prometheus sees them: a collector for ``prometheus_client``, and the table of its metrics.

```python
import prometheus_client
import shmtransport.metrics

prometheus_client.REGISTRY.register(shmtransport.metrics.Collector())
```

Each scrape looks at the rings from outside (`shmtransport.observing`): it takes no place, no lease and no lock, so any
process of the user can report all of the user's rings, its own and others'. One in a Prometheus job is enough; two
would count everything twice.

A counter belongs to a place in a ring: labels ``ring`` and ``index``. It ends when its tenant leaves and begins again
at 0 with the next one, which Prometheus takes for the restart of a process: `rate` and `increase` stay right, but for
what happened between the last scrape and the end.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, NamedTuple, TypeAlias, get_args

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector as PrometheusCollector

from shmtransport import observing
from shmtransport.errors import ShmTransportError
from shmtransport.layout import InlineReason
from shmtransport.observing import Found, State
from shmtransport.statistics import Process, RingStatistics

ID_LENGTH: Final = 8
"""Characters of a ring's id in the label ``ring``, as in log lines."""

_RING: Final = ("ring",)
_PROCESS: Final = (*_RING, "index", "role", "process")
_INLINE: Final = (*_PROCESS, "reason")

Family: TypeAlias = CounterMetricFamily | GaugeMetricFamily
Sample: TypeAlias = tuple[tuple[str, ...], float]
"""The labels' values, and the metric's."""


class Metric(NamedTuple):
    """One line of the table in docs/operating.md."""

    name: str
    labels: tuple[str, ...]
    help: str
    samples: Callable[[Sequence[Found]], Iterable[Sample]]

    @property
    def kind(self) -> str:
        """``"counter"`` or ``"gauge"``."""
        return "counter" if self.name.endswith("_total") else "gauge"

    def family(self, found: Sequence[Found]) -> Family:
        """What is exposed of these rings."""
        made = CounterMetricFamily if self.kind == "counter" else GaugeMetricFamily
        family = made(self.name, self.help, labels=self.labels)
        for labels, value in self.samples(found):
            family.add_metric(labels, value)
        return family


def _readable(found: Sequence[Found]) -> Iterator[RingStatistics]:
    return (ring.statistics for ring in found if ring.statistics is not None)


def _by_state(found: Sequence[Found]) -> Iterator[Sample]:
    count = Counter(ring.state for ring in found)
    return (((state,), count[state]) for state in get_args(State))


def _of_rings(name: str, help: str, value: Callable[[RingStatistics], float]) -> Metric:
    def samples(found: Sequence[Found]) -> Iterator[Sample]:
        return (((ring.ring_id[:ID_LENGTH],), value(ring)) for ring in _readable(found))

    return Metric(name, _RING, help, samples)


def _processes(found: Sequence[Found]) -> Iterator[tuple[tuple[str, ...], Process]]:
    """Each place in a ring, by its labels; the index makes them unique where names are not."""
    for ring in _readable(found):
        for process in ring.processes:
            yield (ring.ring_id[:ID_LENGTH], str(process.index), process.role, process.name), process


def _of_processes(name: str, help: str, value: Callable[[Process], float]) -> Metric:
    def samples(found: Sequence[Found]) -> Iterator[Sample]:
        return ((labels, value(process)) for labels, process in _processes(found))

    return Metric(name, _PROCESS, help, samples)


def _by_reason(found: Sequence[Found]) -> Iterator[Sample]:
    """Reasons that never happened are 0, so that a first time is an increase."""
    reasons = [reason.name.lower() for reason in InlineReason]
    return (
        ((*labels, reason), process.inline.get(reason, 0))
        for labels, process in _processes(found)
        for reason in reasons
    )


METRICS: Final = (
    Metric("shmtransport_rings", ("state",), "Rings by state; only readable ones are in other metrics", _by_state),
    _of_rings("shmtransport_capacity_bytes", "Most bytes that the ring may take", lambda r: r.capacity_nbytes),
    _of_rings("shmtransport_reserved_bytes", "Shared memory that the ring takes now", lambda r: r.reserved_nbytes),
    _of_rings("shmtransport_used_bytes", "Bytes in blocks that somebody holds", lambda r: r.used_nbytes),
    _of_rings("shmtransport_largest_free_bytes", "Largest extent that is free", lambda r: r.largest_free_nbytes),
    _of_rings("shmtransport_segments", "Segments that the ring has grown to", lambda r: r.segments),
    _of_rings("shmtransport_blocks", "Blocks that somebody holds", lambda r: r.blocks),
    _of_rings("shmtransport_entries", "Most blocks that the ring can have", lambda r: r.entries),
    _of_processes("shmtransport_process_alive", "1; 0 for one that died and is not reaped yet", lambda p: p.alive),
    _of_processes("shmtransport_leased_bytes", "Bytes in blocks that the process holds", lambda p: p.leased_nbytes),
    _of_processes("shmtransport_leased_blocks", "Blocks that the process holds", lambda p: p.leased_blocks),
    _of_processes("shmtransport_oldest_lease_seconds", "Age of the oldest block held", lambda p: p.oldest_lease_s),
    _of_processes("shmtransport_unopened_handles", "Handles sent to it and not opened yet", lambda p: p.unopened),
    _of_processes("shmtransport_written_bytes_total", "Bytes in blocks that it made", lambda p: p.written_nbytes),
    _of_processes("shmtransport_written_blocks_total", "Blocks that it made", lambda p: p.writes),
    _of_processes("shmtransport_copied_bytes_total", "Bytes that put copied into them", lambda p: p.copied_nbytes),
    _of_processes("shmtransport_copy_seconds_total", "Time that put spent copying", lambda p: p.copy_s),
    _of_processes("shmtransport_shared_handles_total", "Handles that it sent", lambda p: p.shared),
    _of_processes("shmtransport_opened_handles_total", "Handles that it opened", lambda p: p.opened),
    _of_processes("shmtransport_opened_bytes_total", "Bytes in tensors that it opened", lambda p: p.opened_nbytes),
    _of_processes("shmtransport_revoked_handles_total", "Handles that it took back", lambda p: p.revoked),
    Metric("shmtransport_inline_transfers_total", _INLINE, "Tensors that it sent in messages, by reason", _by_reason),
    _of_processes("shmtransport_wait_seconds_total", "Time that it waited for room", lambda p: p.wait_s),
    _of_processes("shmtransport_reaps_total", "Dead processes whose leases it gave back", lambda p: p.reaps),
)  # fmt: skip
"""All of them. Names and labels are a promise to dashboards: a change of one is named in CHANGELOG.md."""


class Collector(PrometheusCollector):
    """What to register with a ``prometheus_client`` registry. Thread-safe; usable after a fork.

    ``observe`` says which rings to report: by default every ring of this host that its user sees. A scrape takes one
    or two ms, up to some 20 for a ring with a full table of 16384 blocks: serve it from a thread, not from an event
    loop.
    """

    def __init__(self, observe: Callable[[], Iterable[Found]] = observing.rings) -> None:
        self._observe = observe

    def describe(self) -> list[Family]:
        """The names, without a look at any ring: a registry refuses a second collector by them."""
        return [metric.family(()) for metric in METRICS]

    def collect(self) -> list[Family]:
        """All of `METRICS`. Nothing at all where the host refuses the look, so that a scrape never fails by it."""
        try:
            found = list(self._observe())
        except (OSError, ShmTransportError):
            return []
        return [metric.family(found) for metric in METRICS]
