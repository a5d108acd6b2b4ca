"""The collector: what Prometheus reads is what the rings' own statistics say."""

import errno
from collections.abc import Callable, Iterable, Mapping

import prometheus_client
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from shmtransport import Reader, Ring, observing, sweep
from shmtransport.layout import InlineReason
from shmtransport.metrics import METRICS, Collector
from shmtransport.observing import Found
from tests.peers import join_as_if_another_process
from tests.processes.children import child
from tests.support import BACKING, wait_until
from tests.unit.peers import KIB, MIB, NOBODY, bytes_tensor, die, opened, shared

Read = Callable[..., float | None]
"""``read(name, label=value, …)``: what a scrape says, by the name without ``shmtransport_``."""


def found_of(*ring_ids: str) -> list[Found]:
    return [found for found in observing.rings() if found.ring_id in ring_ids]


def reading(observe: Callable[[], Iterable[Found]]) -> Read:
    registry = CollectorRegistry()
    registry.register(Collector(observe))

    def read(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"shmtransport_{name}", labels)

    return read


@pytest.fixture
def read(ring: Ring) -> Read:
    return reading(lambda: found_of(ring.id))


def place(ring: Ring, index: int, role: str, process: str) -> dict[str, str]:
    return {"ring": ring.id[:8], "index": str(index), "role": role, "process": process}


def test_what_is_read_is_what_the_ring_says(ring: Ring, reader: Reader, read: Read) -> None:
    held = [opened(reader, shared(ring, bytes_tensor(nbytes), reader)) for nbytes in (MIB, 300 * KIB)]
    unopened = shared(ring, bytes_tensor(100), reader)
    ring.revoke(shared(ring, bytes_tensor(200), reader))
    wait_until(lambda: ring.statistics().writer.leased_blocks == 1)  # what was opened is settled
    statistics = ring.statistics()
    for name, expected in {
        "capacity_bytes": 4 * MIB,
        "reserved_bytes": statistics.reserved_nbytes,
        "used_bytes": statistics.used_nbytes,
        "largest_free_bytes": statistics.largest_free_nbytes,
        "segments": statistics.segments,
        "blocks": 3,
        "entries": statistics.entries,
    }.items():
        assert read(name, ring=ring.id[:8]) == expected, name
    writer, receiver = place(ring, 0, "writer", "camera"), place(ring, 1, "reader", "engine")
    for name, by_writer, by_reader in (
        ("process_alive", 1, 1),
        ("leased_bytes", 100, MIB + 300 * KIB),
        ("leased_blocks", 1, 2),
        ("unopened_handles", 0, 1),
        ("written_bytes_total", MIB + 300 * KIB + 300, 0),
        ("written_blocks_total", 4, 0),
        ("copied_bytes_total", MIB + 300 * KIB + 300, 0),
        ("copy_seconds_total", statistics.writer.copy_s, 0),
        ("shared_handles_total", 4, 0),
        ("opened_handles_total", 0, 2),
        ("opened_bytes_total", 0, MIB + 300 * KIB),
        ("revoked_handles_total", 1, 0),
        ("wait_seconds_total", 0, 0),
        ("reaps_total", 0, 0),
    ):
        assert (read(name, **writer), read(name, **receiver)) == (by_writer, by_reader), name
    assert statistics.writer.copy_s > 0
    assert statistics.processes[1].oldest_lease_s <= (read("oldest_lease_seconds", **receiver) or 0) < 60
    assert read("rings", state="alive") == 1
    del held, unopened


def test_inline_transfers_are_counted_by_reason_from_0_on(ring: Ring, read: Read) -> None:
    writer = place(ring, 0, "writer", "camera")

    def inline() -> dict[str, float | None]:
        return {
            reason.name.lower(): read("inline_transfers_total", **writer, reason=reason.name.lower())
            for reason in InlineReason
        }

    nothing: Mapping[str, float | None] = {reason.name.lower(): 0 for reason in InlineReason}
    assert inline() == nothing
    ring.put(bytes_tensor(5 * MIB))
    ring.share(bytes_tensor(KIB), NOBODY)
    assert inline() == {**nothing, "full": 1, "not_joined": 1}


def test_a_dead_reader_is_seen_and_its_reaping_counted(ring: Ring, reader: Reader, read: Read) -> None:
    held = opened(reader, shared(ring, bytes_tensor(KIB), reader))
    die(reader)
    receiver = place(ring, 1, "reader", "engine")
    assert (read("process_alive", **receiver), read("leased_blocks", **receiver)) == (0, 1)
    ring.reap()
    assert read("reaps_total", **place(ring, 0, "writer", "camera")) == 1
    assert read("leased_blocks", **receiver) is None
    del held


def test_readers_of_one_name_are_told_apart(ring: Ring, read: Read) -> None:
    with join_as_if_another_process(ring.id, "engine") as one, join_as_if_another_process(ring.id, "engine") as other:
        held = opened(other, shared(ring, bytes_tensor(KIB), one, other))
        assert read("opened_handles_total", **place(ring, 1, "reader", "engine")) == 0
        assert read("opened_handles_total", **place(ring, 2, "reader", "engine")) == 1
        del held


def test_a_series_ends_with_its_process_and_the_next_one_begins_at_0(ring: Ring, read: Read) -> None:
    receiver = place(ring, 1, "reader", "engine")
    with join_as_if_another_process(ring.id, "engine") as reader:
        opened(reader, shared(ring, bytes_tensor(KIB), reader))
        assert read("opened_handles_total", **receiver) == 1
    assert read("opened_handles_total", **receiver) is None
    with join_as_if_another_process(ring.id, "engine"):
        assert read("opened_handles_total", **receiver) == 0


def test_a_scrape_takes_no_place_and_no_lease(ring: Ring, reader: Reader, read: Read) -> None:
    held = opened(reader, shared(ring, bytes_tensor(KIB), reader))
    assert read("blocks", ring=ring.id[:8]) == 1
    assert [process.index for process in ring.statistics().processes] == [0, 1]
    del held
    wait_until(lambda: ring.statistics().blocks == 0)


def test_the_ring_of_a_killed_writer_is_an_orphan_until_it_is_swept() -> None:
    with child("quick") as writer:
        writer.run("ring = Ring.create('4MiB', segment='1MiB', name='painter')\nheld = ring.put(pixels(1))")
        ring_id = writer.ask("ring.id")
        read = reading(lambda: found_of(ring_id))
        assert (read("rings", state="alive"), read("rings", state="orphan")) == (1, 0)
        assert read("used_bytes", ring=ring_id[:8]) == MIB
        writer.kill()
    assert (read("rings", state="alive"), read("rings", state="orphan")) == (0, 1)
    left_nbytes = {"posix": MIB, "memfd": None}[BACKING]  # anonymous memory is gone with its last process
    assert read("reserved_bytes", ring=ring_id[:8]) == left_nbytes
    sweep()
    assert read("rings", state="orphan") == 0
    assert read("reserved_bytes", ring=ring_id[:8]) is None


def test_rings_that_cannot_be_read_are_counted_and_nothing_else(ring: Ring) -> None:
    (seen,) = found_of(ring.id)
    gone = Found(NOBODY, seen.uid, "posix", "gone", "it went meanwhile", None)
    read = reading(lambda: [gone, seen, gone])
    assert (read("rings", state="gone"), read("rings", state="alive")) == (2, 1)
    assert read("blocks", ring=NOBODY[:8]) is None
    assert read("blocks", ring=ring.id[:8]) == 0


def test_a_host_that_refuses_the_look_costs_no_other_metric() -> None:
    def refused() -> list[Found]:
        raise OSError(errno.EMFILE, "Too many open files")

    registry = CollectorRegistry()
    registry.register(Collector(refused))
    prometheus_client.Gauge("others", "Of somebody else", registry=registry).set(7)
    text = prometheus_client.generate_latest(registry).decode()
    assert [family.name for family in text_string_to_metric_families(text)] == ["others"]


def test_a_registry_takes_one_collector_and_looks_at_no_ring_for_that() -> None:
    looks: list[int] = []

    def observe() -> list[Found]:
        looks.append(1)
        return []

    registry = CollectorRegistry(auto_describe=True)
    registry.register(Collector(observe))
    with pytest.raises(ValueError, match="shmtransport_rings"):
        registry.register(Collector(observe))
    assert looks == []


def test_every_ring_of_this_user_is_reported_unless_told_otherwise(ring: Ring) -> None:
    registry = CollectorRegistry()
    registry.register(Collector())
    assert registry.get_sample_value("shmtransport_capacity_bytes", {"ring": ring.id[:8]}) == 4 * MIB


def test_both_text_formats_have_the_names_kinds_and_labels_of_the_table(ring: Ring, reader: Reader) -> None:
    registry = CollectorRegistry()
    registry.register(Collector(lambda: found_of(ring.id)))
    texts = {
        text_string_to_metric_families: prometheus_client.generate_latest(registry).decode(),
        parse_openmetrics: openmetrics.generate_latest(registry).decode(),  # type: ignore[no-untyped-call]
    }
    for parse, text in texts.items():
        families = {family.name.removesuffix("_total"): family for family in parse(text)}  # type: ignore[no-untyped-call]
        assert families.keys() == {metric.name.removesuffix("_total") for metric in METRICS}
        for metric in METRICS:
            family = families[metric.name.removesuffix("_total")]
            assert (family.type, family.documentation) == (metric.kind, metric.help)
            assert {sample.name for sample in family.samples} == {metric.name}
            assert {frozenset(sample.labels) for sample in family.samples} == {frozenset(metric.labels)}
            places = [frozenset(sample.labels.items()) for sample in family.samples]
            assert len(places) == len(set(places))
