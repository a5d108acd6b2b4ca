"""Rings of an engine: the one that a frontend writes into, and those joined, by the id that a handle names."""

import threading
from typing import Any, Final

import torch

from shmtransport import dtypes, handles
from shmtransport.adapters.ahead import MapsAhead
from shmtransport.adapters.settings import BLOCK_TIMEOUT_S, RingSize, Settings
from shmtransport.errors import HandleError, OutOfSharedMemoryError, ShmTransportError, WaitTimeoutError
from shmtransport.handles import Handle
from shmtransport.layout import InlineReason
from shmtransport.reader import Reader
from shmtransport.ring import Ring
from shmtransport.tensors import Tensor

KEY: Final = "shmt"
"""The one key of what stands in a message in place of a tensor; its value is ``bytes(handle)``."""

PEER: Final = "peer_id"
ERROR: Final = "error"
"""The keys of an answer to a call to join."""


def create(size: RingSize, settings: Settings, name: str) -> Ring:
    """The ring that an engine's frontend writes into. Raises what `Ring.create` raises."""
    return Ring.create(
        size.capacity_nbytes,
        segment=size.segment_nbytes,
        backing=size.backing,
        on_full=settings.on_full,
        timeout_s=BLOCK_TIMEOUT_S,
        name=name,
    )


def put(tensor: torch.Tensor, ring: Ring) -> torch.Tensor:
    """`Ring.put`; without room ``tensor`` itself, counted, also after a ring that blocks has waited."""
    try:
        return ring.put(tensor)
    except (WaitTimeoutError, OutOfSharedMemoryError):
        ring.count_inline(InlineReason.FULL)
        return tensor


class JoinedRings:
    """Joins rings on request and opens their handles. Thread-safe."""

    def __init__(self, name: str, *, writable: bool) -> None:
        self._name = name
        self._writable = writable
        self._readers: dict[bytes, Reader] = {}
        self._lock = threading.Lock()
        self._ahead = MapsAhead()

    def join(self, ring_id: str, handle_version: int) -> dict[str, str]:
        """``{"peer_id": …}``, or ``{"error": …}`` if this process cannot read that ring; never raises.

        Leaves rings whose writer is gone, so that their memory goes with the last tensor over it.
        """
        if handle_version != handles.VERSION:
            return {ERROR: f"handles of version {handle_version} and {handles.VERSION}: install one shmtransport"}
        try:
            reader = Reader.join(ring_id, name=self._name, writable=self._writable)
        except (ShmTransportError, OSError, MemoryError) as error:
            return {ERROR: str(error)}
        with self._lock:
            self._leave_the_dead()
            self._readers[bytes.fromhex(ring_id)] = reader
        self._ahead.add(reader)
        return {PEER: reader.peer_id}

    def _leave_the_dead(self) -> None:
        for ring_id, reader in list(self._readers.items()):
            if not reader.statistics().writer.alive:
                del self._readers[ring_id]
                reader.close()

    def reader(self, ring_id: bytes) -> Reader:
        """Raises `HandleError` for a ring that was not joined."""
        reader = self._readers.get(ring_id)
        if reader is None:
            raise HandleError(f"a handle of ring {ring_id.hex()}, which this process has not joined")
        return reader

    def open(self, handle: Handle) -> torch.Tensor:
        """The tensor behind ``handle``, with a lease of its own. Raises what `Reader.open` raises."""
        return _torch_tensor(self.reader(handle.ring_id).open(handle))

    def open_wire(self, wire: bytes) -> torch.Tensor:
        """`open` for the bytes of a handle; for a plain one with less to do."""
        return _torch_tensor(self.reader(wire[handles.RING_ID]).open_wire(wire))

    def provide(self, dtype: str, shape: tuple[int, ...], meta: dict[str, Any]) -> torch.Tensor:
        """What stands behind ``meta`` in a message, as `open_as` answers it."""
        return self.open_as(Handle.from_bytes(meta[KEY]), dtype, tuple(shape))

    def open_as(self, handle: Handle, dtype: str, shape: tuple[int, ...]) -> torch.Tensor:
        """As `open`. Raises `HandleError`, and refuses the handle, if it is of another ``dtype`` or ``shape``."""
        reader = self.reader(handle.ring_id)
        found = dtypes.TABLE[handle.dtype].name
        if (found, handle.shape) != (dtype, shape):
            reader.refuse(handle)
            raise HandleError(f"expected {dtype} {shape}, the handle is of {found} {handle.shape}")
        return self.open(handle)

    def close(self) -> None:
        """Leaves all of them, each as soon as no tensor needs it."""
        with self._lock:
            while self._readers:
                self._readers.popitem()[1].close()


def _torch_tensor(opened: Tensor) -> torch.Tensor:
    if not isinstance(opened, torch.Tensor):
        raise HandleError("expected a handle of a torch.Tensor, got one of a numpy array")
    return opened
