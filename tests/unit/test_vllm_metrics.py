"""vLLM's /metrics without vLLM: which rings are reported, in one process and among several that share a folder."""

from collections.abc import Iterator
from pathlib import Path

import prometheus_client
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.multiprocess import MultiProcessCollector

from shmtransport import Ring, observing
from shmtransport.adapters.vllm import metrics
from shmtransport.adapters.vllm.seams import Patches
from tests.processes.children import child
from tests.support import run_python

IN_ANOTHER_PROCESS = "from shmtransport.adapters.vllm import metrics\nring = Ring.create('4MiB', segment='1MiB')"


@pytest.fixture(autouse=True)
def registry(monkeypatch: pytest.MonkeyPatch) -> CollectorRegistry:
    """In place of prometheus_client's own, which stays as it is."""
    registry = CollectorRegistry(auto_describe=True)
    monkeypatch.setattr(prometheus_client, "REGISTRY", registry)
    return registry


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """PROMETHEUS_MULTIPROC_DIR, as vLLM makes it for several API servers."""
    monkeypatch.setenv(metrics.FOLDER, str(tmp_path))
    return tmp_path


@pytest.fixture
def patches() -> Iterator[Patches]:
    patches = Patches([metrics.module()])
    patches.apply()
    yield patches
    patches.undo()


def rings_in(registry: CollectorRegistry) -> list[str]:
    """The first characters of the ids of the rings that are reported."""
    samples = [sample for family in registry.collect() for sample in family.samples]
    return sorted(sample.labels["ring"] for sample in samples if sample.name == "shmtransport_capacity_bytes")


def of_a_scrape() -> CollectorRegistry:
    """What is made for each scrape where there are several API servers."""
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return registry


def test_a_process_reports_its_own_rings_from_the_first_on(ring: Ring, registry: CollectorRegistry) -> None:
    assert rings_in(registry) == []
    metrics.show(ring.id)
    assert rings_in(registry) == [ring.id[:8]]
    with Ring.create("4MiB", segment="1MiB") as other:
        metrics.show(other.id)
        assert rings_in(registry) == sorted([ring.id[:8], other.id[:8]])
    assert rings_in(registry) == [ring.id[:8]]


def test_another_deployment_on_this_host_is_not_reported(
    ring: Ring, registry: CollectorRegistry, patches: Patches, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    metrics.show(ring.id)
    with child("quick") as stranger:
        stranger.run(f"{IN_ANOTHER_PROCESS}\nos.environ[metrics.FOLDER] = elsewhere", elsewhere=str(elsewhere))
        stranger.run("metrics.show(ring.id)")
        assert rings_in(registry) == rings_in(of_a_scrape()) == [ring.id[:8]]


def test_any_of_several_api_servers_reports_the_rings_of_all(ring: Ring, patches: Patches, folder: Path) -> None:
    metrics.show(ring.id)
    with child("quick") as other:
        other.run(f"{IN_ANOTHER_PROCESS}\nos.environ[metrics.FOLDER] = folder", folder=str(folder))
        assert rings_in(of_a_scrape()) == [ring.id[:8]]
        other.run("metrics.show(ring.id)")
        assert rings_in(of_a_scrape()) == sorted([ring.id[:8], other.ask("ring.id[:8]")])
    assert rings_in(of_a_scrape()) == [ring.id[:8]]


def test_without_the_seam_a_scrape_of_several_is_as_it_was(ring: Ring, folder: Path) -> None:
    metrics.show(ring.id)
    assert list(of_a_scrape().collect()) == []


def test_the_seam_is_put_back(patches: Patches) -> None:
    before = MultiProcessCollector.__init__.__wrapped__  # type: ignore[attr-defined]
    patches.undo()
    assert MultiProcessCollector.__init__ is before


def test_a_collector_without_a_registry_stays_one(patches: Patches, folder: Path) -> None:
    assert list(MultiProcessCollector(None).collect()) == []  # type: ignore[no-untyped-call]


def test_a_folder_that_is_gone_costs_only_what_lay_in_it(ring: Ring, registry: CollectorRegistry, folder: Path) -> None:
    folder.rmdir()
    metrics.show(ring.id)
    assert rings_in(registry) == [ring.id[:8]]


def test_a_bug_of_ours_costs_no_metric_of_vllm(
    ring: Ring, registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    metrics.show(ring.id)
    prometheus_client.Gauge("others", "Of vLLM", registry=registry).set(7)

    def broken() -> None:
        raise IndexError("a bug")

    monkeypatch.setattr(observing, "rings", broken)
    assert registry.get_sample_value("others") == 7
    assert "please report it" in caplog.text


@pytest.mark.parametrize(("enable", "wrapped"), [("0", False), ("1", True)])
def test_switched_off_prometheus_client_keeps_the_very_same_objects(enable: str, wrapped: bool) -> None:
    run_python(
        """
        import os, sys
        os.environ["SHMTRANSPORT_ENABLE"] = sys.argv[1]
        from prometheus_client.multiprocess import MultiProcessCollector
        from shmtransport.adapters.vllm import register
        before = dict(vars(MultiProcessCollector))
        register()
        changed = [name for name, value in vars(MultiProcessCollector).items() if value is not before.get(name)]
        assert changed == eval(sys.argv[2]), changed
        """,
        enable,
        ["__init__"] if wrapped else [],
    )


def test_nothing_happens_without_prometheus_client() -> None:
    run_python(
        """
        import sys
        sys.modules["prometheus_client"] = None
        from shmtransport import Ring
        from shmtransport.adapters.vllm import metrics, register
        register()
        with Ring.create("4MiB", segment="1MiB") as ring:
            metrics.show(ring.id)
        assert "shmtransport.metrics" not in sys.modules
        """
    )
