"""The demo itself: makes the checkpoint, serves it with the plugin off and then on, and puts both side by side."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import msgspec

from shmtransport import segment
from shmtransport.demo_vllm import recorder, records
from shmtransport.demo_vllm.answers import control_differs, identical
from shmtransport.demo_vllm.messages import Measured, Served
from shmtransport.demo_vllm.processes import ServingError, run_module
from shmtransport.demo_vllm.records import Decoded, Event, Passed, Received
from shmtransport.demo_vllm.report import Report, Row, Sample
from shmtransport.demo_vllm.settings import Settings

_GONE_TIMEOUT_S = 10.0
_SAYS_OFF = "shmtransport is off"
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "1",  # without it there is no first hop
    "VLLM_CPU_KVCACHE_SPACE": "1",
}

Watch = Callable[[str, int], None]
"""Called now and then, with what is going on and how many images have arrived in all."""


class Outcome(NamedTuple):
    """A report, and what does not belong into it."""

    report: Report
    vllm_version: str
    warnings: list[str]
    """What the plugin had to say with it on: why tensors went vLLM's own way."""


class _Run(NamedTuple):
    served: Served
    events: list[Event]
    warnings: list[str]


def run(settings: Settings, watch: Watch) -> Outcome:
    """Runs the demo; when it returns or raises, all processes have ended.

    Raises `ServingError`. Takes one to three minutes, most of it vLLM's start, twice, and preprocessing.
    """
    before = set(segment.rings())
    with TemporaryDirectory(prefix="shmtransport-demo-vllm-") as name:
        folder = Path(name)
        environment = dict(os.environ) | ENVIRONMENT
        module = "shmtransport.demo_vllm.checkpoint"
        run_module(
            module,
            folder / "model",
            environment=environment,
            log=folder / "checkpoint.log",
            look=lambda: watch("making a model", 0),
        )
        off = _serve(folder, settings, plugin=False, watch=watch)
        on = _serve(folder, settings, plugin=True, watch=lambda what, n: watch(what, settings.images_in_all + n))
    compared = [off.served.compared, on.served.compared]
    rows = {plugin: _rows(plugin, settings, found) for plugin, found in ((False, off), (True, on))}
    report = Report(
        identical=identical(compared),
        control_differs=control_differs(compared),
        leaked_nbytes=_left_nbytes(before),
        rows=[row for images in settings.images for row in (rows[False][images], rows[True][images])],
    )
    return Outcome(report, on.served.version, on.warnings)


def _serve(folder: Path, settings: Settings, *, plugin: bool, watch: Watch) -> _Run:
    name = "on" if plugin else "off"
    record, result, log = (folder / f"{name}.{what}" for what in ("record", "result", "log"))
    environment = {
        **recorder.environment(recorder.install(folder / f"{name}.plugins"), record, digests=False),
        **ENVIRONMENT,
        "SHMTRANSPORT_ENABLE": "1" if plugin else "0",
    }
    # In one segment, so that all of it is there from the start, as it is when a server has run for a while.
    for variable in ("SHMTRANSPORT_CAPACITY", "SHMTRANSPORT_SEGMENT"):
        environment.setdefault(variable, str(settings.ring_nbytes))

    def look() -> None:
        arrived = sum(event.images for event in records.of_kind(records.read(record), Decoded))
        watch(f"{'answering' if arrived else 'starting vLLM'}, plugin {name}", arrived)

    images = ",".join(map(str, settings.images))
    module = "shmtransport.demo_vllm.serve"
    run_module(module, folder / "model", result, images, environment=environment, log=log, look=look)
    printed = log.read_text(errors="replace").splitlines()
    return _Run(
        msgspec.json.decode(result.read_bytes(), type=Served),
        records.read(record),
        [line[line.index(_SAYS_OFF) :] for line in printed if _SAYS_OFF in line],
    )


def _rows(plugin: bool, settings: Settings, found: _Run) -> dict[int, Row]:
    samples = [sample_of(measured, found.events) for measured in found.served.measured]
    return {
        images: Row.of(plugin, images, [sample for sample in samples if sample.frontend.images == images])
        for images in settings.images
    }


def sample_of(measured: Measured, events: list[Event]) -> Sample:
    """One request with what the recorder saw of it.

    Raises `ServingError` unless it saw the request arrive once, with all its images, and once more, in one message,
    on its way to the workers.
    """
    asked = measured.request_id
    decoded = [event for event in records.of_kind(events, Decoded) if event.request_id == asked]
    passed = [event for event in records.of_kind(events, Passed) if asked in event.request_ids]
    received = [event for event in records.of_kind(events, Received) if asked in event.request_ids]
    if (len(decoded), len(passed), bool(received)) != (1, 1, True) or decoded[0].images != measured.images:
        raise ServingError(
            f"a request of {measured.images} images was recorded as decoded {len(decoded)} times, sent to workers "
            f"{len(passed)} times, and received {len(received)} times"
        )
    return Sample(
        frontend=measured,
        decoded_s=decoded[0].decoded_s,
        sent_seconds=passed[0].seconds,
        sent_wire_nbytes=passed[0].wire_nbytes,
        received_seconds=max(event.seconds for event in received),
    )


def _left_nbytes(before: set[str]) -> int:
    """What is in /dev/shm of rings that were not there ``before``, once vLLM's last processes are gone."""
    deadline = time.monotonic() + _GONE_TIMEOUT_S
    while paths := [path for ring_id, paths in segment.rings().items() if ring_id not in before for path in paths]:
        if time.monotonic() > deadline:
            break
        time.sleep(0.01)
    return sum(_nbytes(Path(path)) for path in paths)


def _nbytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
