"""Memory of CUDA devices that other processes can open: what this process allocated, and what it opened of others.

With `cuda` the only owner of CUDA calls; the face of csrc/device_memory.h. A device is named by UUID between processes,
since ordinals differ where CUDA_VISIBLE_DEVICES does. Events are torch's. Thread-safe; in a forked child nothing is
given back, as nothing of it is inherited.
"""

import weakref
from collections.abc import Callable
from typing import Any, Self

import torch

from shmtransport import _core, cuda
from shmtransport.errors import DeviceError

_REMEDY = "it takes one host, one IPC and PID namespace for both, and no MIG; or send tensor.cpu()"


class Memory:
    """A range of a device's memory, by its address in this process. Given back with its last reference, behind all that
    the device still does with it; not at the end of the process, when the driver does that."""

    def __init__(
        self, device: torch.device, address: int, nbytes: int, give_back: Callable[[int, int], int], keep: object = None
    ) -> None:
        self.device = device
        self.address = address
        self.nbytes = nbytes
        self.events: dict[bytes, Event] = {}
        """Of other processes, opened here, by handle: a pool uses its own in rotation."""
        self._finalizer = weakref.finalize(self, _give_back, give_back, device.index, address, _core.fork_epoch(), keep)
        self._finalizer.atexit = False

    def close(self) -> None:
        """Gives it back now. Idempotent."""
        self._finalizer()


def _give_back(function: Callable[[int, int], int], ordinal: int, address: int, fork_epoch: int, _keep: object) -> None:
    """What was kept is let go behind it."""
    if fork_epoch == _core.fork_epoch():
        function(ordinal, address)


def allocate(device: torch.device, nbytes: int) -> Memory:
    """``nbytes`` of ``device``, a CUDA device with an index that the process uses.

    Raises `DeviceError` if the device has no such memory left.
    """
    _load()
    code, address = _core.device_allocate(device.index, nbytes)
    if code != 0:
        raise DeviceError(f"expected {nbytes} bytes of {device}: {_core.device_error(code)}")
    return Memory(device, address, nbytes, _core.device_free)


def names_of(memory: Memory) -> tuple[bytes, bytes]:
    """What another process opens ``memory`` of `allocate` by: the device's UUID and the driver's handle.

    Raises `DeviceError` where CUDA does not share memory between processes.
    """
    code, handle = _core.device_export(memory.device.index, memory.address)
    if code != 0:
        raise DeviceError(f"memory of {memory.device} cannot be shared: {_core.device_error(code)}; {_REMEDY}")
    return _core.device_uuids()[memory.device.index], handle


def open_named(uuid: bytes, handle: bytes, keep: object) -> Memory:
    """Another process's memory, opened here; ``keep`` is let go once it has been given back.

    Raises `DeviceError` if the device is not visible to this process, or CUDA refuses.
    """
    _load()
    uuids = _core.device_uuids()
    if uuid not in uuids:
        raise DeviceError(
            f"expected the device {uuid.hex()}, this process sees {', '.join(map(bytes.hex, uuids)) or 'none'}: "
            "make it visible (CUDA_VISIBLE_DEVICES), or send tensor.cpu()"
        )
    device = cuda.used(torch.device("cuda", uuids.index(uuid)))
    code, address, nbytes = _core.device_import(device.index, handle)
    if code != 0:
        raise DeviceError(f"memory of {device} cannot be opened: {_core.device_error(code)}; {_REMEDY}")
    return Memory(device, address, nbytes, _core.device_release, keep)


def _load() -> None:
    cuda.load()
    if (missing := _core.device_load(cuda.DRIVER)) is not None:
        raise DeviceError(f"expected {missing} in this host's CUDA driver, which lacks it")


class Event:
    """Says to the streams of every process when what a block holds is complete."""

    def __init__(self, event: torch.cuda.Event, device: torch.device, handle: bytes, *, own: bool) -> None:
        self._event = event
        self._device = device
        self._own = own
        self.handle = handle
        """What another process opens it by."""

    @classmethod
    def create(cls, device: torch.device) -> Self:
        """Raises `DeviceError` where CUDA does not share events between processes."""
        event: Any = torch.cuda.Event(interprocess=True)  # type: ignore[no-untyped-call]
        try:
            event.record(torch.cuda.current_stream(device))
            return cls(event, device, event.ipc_handle(), own=True)
        except RuntimeError as error:
            raise DeviceError(f"events of {device} cannot be shared: {error}; {_REMEDY}") from error

    @classmethod
    def open(cls, device: torch.device, handle: bytes) -> Self:
        """Another process's. Raises `DeviceError` if CUDA refuses."""
        try:
            event: Any = torch.cuda.Event
            return cls(event.from_ipc_handle(device, handle), device, handle, own=False)
        except RuntimeError as error:
            raise DeviceError(f"an event of {device} cannot be opened: {error}; {_REMEDY}") from error

    def record(self) -> None:
        """Behind what is enqueued on the device's current stream of this thread. Another process's says it already."""
        if self._own:
            self._event.record(torch.cuda.current_stream(self._device))

    def wait(self) -> None:
        """The device's current stream of this thread waits for it, the thread does not."""
        self._event.wait(torch.cuda.current_stream(self._device))
