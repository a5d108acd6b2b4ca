"""The GPU end: ring memory registered for DMA, and leases that end behind the copies which read them.

The one owner of CUDA calls, through the core (csrc/cuda.h, csrc/keeper.h), and imported only in a process that uses
CUDA already: no context is ever created here.

    register    whole segments, as they are mapped; ``tensor.is_pinned()`` is true for tensors in them from then on
    end         a lease of such a ring ends behind all that the process had enqueued when its last tensor died
    move        tensors to a device, asynchronously: one DMA each, straight from the ring

Without registration (no driver, an old one, no budget) everything works: CUDA then copies in pieces through memory of
its own while the caller waits, 7 instead of 54 GB/s on an H100, and has read the tensor when the call returns.
"""

import functools
import logging
import os
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakSet

import torch

from shmtransport import _core
from shmtransport.config import PINNED, pinned_budget_nbytes
from shmtransport.errors import DeviceError, ShmTransportError

if TYPE_CHECKING:
    from shmtransport.attachment import Attachment

DRIVER: Final = "libcuda.so.1"

_log: Final = logging.getLogger(__name__)
_lock = threading.Lock()
_warned: Final[set[str]] = set()
_capturing: "WeakSet[torch.cuda.CUDAGraph]" = WeakSet()


def _forget() -> None:
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_forget)


def register(attachment: "Attachment") -> None:
    """Registers those segments of ``attachment`` that were mapped since the last call. Never raises, never waits for
    another thread that registers. 48 ms a GiB of faulted-in memory on an H100 host, once a process.

    What cannot be registered is used unregistered, with one warning a cause. Thread-safe.
    """
    if not _lock.acquire(blocking=False):
        return
    try:
        for number in sorted(attachment.unregistered):
            if (code := _register(attachment, number)) == _core.CONSTANTS["CUDA_ABSENT"]:
                return  # no context yet: another time
            attachment.unregistered.discard(number)
            if code != 0:
                _warn("refused", f"cuMemHostRegister answered {code}")
    finally:
        _lock.release()


def _register(attachment: "Attachment", number: int) -> int:
    """The driver's answer; 0 also where it was not asked, which was said then."""
    try:
        load()
        nbytes, used, budget = attachment.core.segment_nbytes(number), _core.pinned_nbytes(), pinned_budget_nbytes()
        if used + nbytes > budget:
            _warn("budget", f"{PINNED} allows {budget} bytes, {used} are registered and {nbytes} more were wanted")
            return 0
        end_by_event(attachment)
        return attachment.core.pin(number)
    except DeviceError as error:
        _warn("driver", str(error))
        return 0
    except (ShmTransportError, MemoryError, OSError) as error:
        _warn("error", str(error))
        return 0


def load() -> None:
    """Raises `DeviceError` without a driver of CUDA 12.5 or newer."""
    if (missing := _core.cuda_load(DRIVER)) is not None:
        raise DeviceError(f"no {missing} in this host's CUDA driver, which has to be of release 12.5 or newer")


def end_by_event(attachment: "Attachment") -> None:
    """From now on leases of ``attachment`` end behind all that the process had enqueued when their tensors died.

    The driver must be loaded. Idempotent.
    """
    _announce_captures()
    attachment.core.keep()


def _warn(cause: str, why: str) -> None:
    if cause not in _warned:
        _warned.add(cause)
        _log.warning("copies from a ring to the GPU are staged by CUDA, at a fraction of the rate: %s", why)


def prepare(device: torch.device) -> None:
    """Has the process use CUDA, as its caller asked for by naming ``device``: so there is a context to register for.

    Raises what torch raises where there is no such device.
    """
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.zeros(1, device=device)


def used(device: torch.device) -> torch.device:
    """``device`` with its index, which the process uses from now on, as its caller asked for by naming it.

    Raises what torch raises where there is no such device.
    """
    return torch.zeros(1, device=device).device


def move(tensors: Sequence[torch.Tensor], device: torch.device, stream: torch.cuda.Stream | None) -> list[torch.Tensor]:
    """Copies of ``tensors`` on ``device``, enqueued on ``stream`` or its current one; does not wait for them."""
    with torch.cuda.device(device), torch.cuda.stream(stream):
        return [tensor.to(device, non_blocking=True) for tensor in tensors]


@functools.cache
def _announce_captures() -> None:
    """Has every CUDA graph of this process say when it is being captured: the event that leases wait for covers the
    whole device, which CUDA allows at no time when one of its streams is captured."""
    graph: Any = torch.cuda.CUDAGraph
    graph.capture_begin = _begin(graph.capture_begin)
    graph.capture_end = _end(graph.capture_end)


def _begin(original: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(original)
    def capture_begin(self: torch.cuda.CUDAGraph, *arguments: Any, **options: Any) -> None:
        _core.capturing(1)
        _capturing.add(self)
        try:
            original(self, *arguments, **options)
        except BaseException:
            _ended(self)
            raise

    return capture_begin


def _end(original: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(original)
    def capture_end(self: torch.cuda.CUDAGraph, *arguments: Any, **options: Any) -> None:
        try:
            original(self, *arguments, **options)
        finally:
            _ended(self)

    return capture_end


def _ended(graph: torch.cuda.CUDAGraph) -> None:
    if graph in _capturing:
        _capturing.discard(graph)
        _core.capturing(-1)
