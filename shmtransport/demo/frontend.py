"""The frontend process: prepares requests, sends each by every transport in turn, and keeps time.

The transports take turns request by request, so that whatever else the machine does meets all of them alike.
No image stands where it stood in the request before: memory that was not written again fails its checksum.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from shmtransport import Ring
from shmtransport.demo.engine_process import EngineProcess
from shmtransport.demo.messages import Request, checksum, minor_faults
from shmtransport.demo.photographs import DTYPES, PATCHES, pixel_tensors
from shmtransport.demo.report import Kind, Machine, Report, Row, Sample
from shmtransport.demo.settings import WARM_UP, Settings
from shmtransport.demo.sockets import RECEIPTS, Sockets
from shmtransport.demo.transports import WAYS, Multipart, Pickle, SharedMemory, Transport

REQUEST_TIMEOUT_S = 60.0

SHARED_MEMORY = Path("/dev/shm")

Samples = dict[tuple[Kind, str], list[Sample]]
"""In the order in which they were taken, by kind and name of the transport."""

Watch = Callable[[str, int], None]
"""Called after every request, with what was sent and how many images it had."""


def run(settings: Settings, watch: Watch | None = None) -> Report:
    """Runs the demo; when it returns or raises, both processes have given everything back.

    Raises `EngineError`, and what the library raises, `OutOfSharedMemoryError` above all.
    """
    samples: Samples = defaultdict(list)
    with connected(settings.ring_nbytes) as (ring_id, transports, engine):
        pixels = pixel_tensors(max(settings.images) + 1)
        engine.begin()
        for kind, request in requests(settings, pixels):
            for transport in transports:
                samples[kind, transport.name].append(exchange(transport, request, engine))
                if watch is not None:
                    watch(f"{kind.images} × {kind.dtype}, {transport.name}", kind.images)
    return report_of(settings, samples, left_nbytes(ring_id))


@contextmanager
def connected(ring_nbytes: int, *options: str) -> Iterator[tuple[str, list[Transport], EngineProcess]]:
    """The id of a ring of ``ring_nbytes``, this process's end of each way, and an engine, started with ``options``.

    When the block ends both processes have given everything back.
    """
    with ExitStack() as stack:
        directory = Path(stack.enter_context(TemporaryDirectory(prefix="shmtransport-demo-")))
        # In one segment, so that all of it is faulted in from the start.
        ring = stack.enter_context(Ring.create(ring_nbytes, segment=ring_nbytes, on_full="raise", name="frontend"))
        sockets = stack.enter_context(Sockets(directory, binds=True))
        shared = SharedMemory(sockets, ring)
        transports: list[Transport] = [shared, Multipart(sockets), Pickle(sockets)]
        engine = stack.enter_context(EngineProcess(directory, sockets.open(RECEIPTS), options, shared.join))
        yield ring.id, transports, engine


def exchange(transport: Transport, request: Request, engine: EngineProcess) -> Sample:
    """Sends one request and waits until the engine has verified and dropped it."""
    sent_nbytes = transport.sent_nbytes
    faults = minor_faults()
    in_hand_ns = time.monotonic_ns()
    transport.send(request)
    faults = minor_faults() - faults
    receipt = engine.receipt(REQUEST_TIMEOUT_S)
    return Sample(
        seconds=(receipt.ready_ns - in_hand_ns) / 1e9,
        wire_nbytes=transport.sent_nbytes - sent_nbytes,
        minor_faults=faults + receipt.minor_faults,
        images_verified=receipt.images_verified,
        patches=receipt.patches,
    )


def requests(settings: Settings, pixels: list[torch.Tensor]) -> Iterator[tuple[Kind, Request]]:
    """All requests, kind after kind as the settings list them; ``pixels`` are one more than the largest has images.

    The order matters to the rivals: after larger requests glibc may have kept memory that a smaller one then need
    not fault in. On two cores of an EPYC, ten float32 images took zmq-multipart 60 ms in the order 1, 10, 50,
    and 30 ms in the order 50, 10, 1.
    """
    for dtype in settings.dtypes:
        images = [tensor.to(DTYPES[dtype]) for tensor in pixels]
        checksums = [checksum(image) for image in images]
        for number in settings.images:
            for turn in range(WARM_UP + settings.requests):
                chosen = [(turn + place) % len(images) for place in range(number)]
                yield Kind(number, dtype), Request([images[n] for n in chosen], [checksums[n] for n in chosen])


def report_of(settings: Settings, samples: Samples, leaked_nbytes: int) -> Report:
    """What the samples amount to."""
    complete = [
        (sample.images_verified, sample.patches) == (kind.images, kind.images * PATCHES)
        for (kind, _), taken in samples.items()
        for sample in taken
    ]
    kinds = [Kind(images, dtype) for dtype in settings.dtypes for images in settings.images]
    return Report(
        verified=all(complete),
        leaked_nbytes=leaked_nbytes,
        rows=[Row.of(way.name, kind, samples[kind, way.name][WARM_UP:]) for kind in kinds for way in WAYS],
        images_verified=sum(sample.images_verified for taken in samples.values() for sample in taken),
        machine=Machine.here(),
    )


def left_nbytes(ring_id: str) -> int:
    """What is in /dev/shm under ``ring_id``."""
    return sum(path.stat().st_size for path in SHARED_MEMORY.glob(f"*{ring_id}*"))
