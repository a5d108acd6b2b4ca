"""Memory of a CUDA device whose blocks are shared under a ring's leases."""

import os
import threading
import time
import weakref
from collections.abc import Iterable
from typing import Final, Self

import torch

from shmtransport import _core, cuda, device_memory, device_tensors, tensors
from shmtransport.config import OnFull, check_on_full, parse_size, round_up
from shmtransport.device_memory import Event, Memory
from shmtransport.device_tensors import BLOCK, BLOCK_MAGIC, POOL, POOL_MAGIC
from shmtransport.errors import ClosedError, ConfigError, RingFullError, WaitTimeoutError
from shmtransport.handles import nbytes_of
from shmtransport.layout import WRITER, InlineReason
from shmtransport.ring import Ring

_OWN: Final = 1 << WRITER
# A multiple of what any vector load of a kernel wants, and of what cuMemAlloc aligns to.
_UNIT_NBYTES: Final = 512

_retired: Final["set[_Store]"] = set()
"""Of closed pools: somebody had the memory open when it was last asked."""

os.register_at_fork(after_in_child=_retired.clear)


class _Store:
    """The bytes of a pool: which are free, and which records say who holds the others."""

    def __init__(self, ring: Ring, memory: Memory) -> None:
        self.attachment = ring.attachment
        self.memory = memory
        self.record: _core.Lease | None = ring.write_record(POOL.pack(POOL_MAGIC, *device_memory.names_of(memory)))
        device_tensors.know_memory(self.attachment, self.record, memory)
        self.fork_epoch = _core.fork_epoch()
        self.lock = threading.Lock()
        self._extents = _core.Extents(memory.nbytes)
        self._live: list[tuple[device_tensors.Key, tuple[int, int], Event]] = []
        self._events: list[Event] = []

    def try_take(self, ring: Ring, nbytes: int) -> device_tensors.Block | None:
        """A block with its record; None: no room, even after a look at who holds what."""
        with self.lock:
            whole = round_up(nbytes, _UNIT_NBYTES)
            extent = self._extents.take(whole)
            if extent is None:
                self._collect()
                extent = self._extents.take(whole)
            if extent is None or self.record is None:
                return None
            try:
                event = self._events.pop() if self._events else Event.create(self.memory.device)
                record = BLOCK.pack(
                    BLOCK_MAGIC, self.record.entry, self.record.generation, extent[0], nbytes, event.handle
                )
                lease = ring.write_record(record)
            except BaseException:
                self._extents.give(*extent)
                raise
            self._live.append(((lease.entry, lease.generation), extent, event))
            return device_tensors.made(self.attachment, lease, self.memory, extent[0], nbytes, event)

    def room(self) -> tuple[int, int, int]:
        """Bytes in use, bytes in all, the largest free extent."""
        with self.lock:
            self._collect()
            return self._extents.room()

    def try_free(self) -> bool:
        """Gives the memory back if no process has it open."""
        with self.lock:
            if self.record is None:
                return True
            self._collect()
            held = self.attachment.core.holders(self.record.entry, self.record.generation)
            if self._live or held != _OWN:
                return False
            self.memory.close()
            self.record = None
            return True

    def _collect(self) -> None:
        """Takes back the extents whose records nobody holds any more, the dead among them."""
        core = self.attachment.core
        core.settle()
        core.reap()
        still = []
        for each in self._live:
            record, extent, event = each
            if core.holders(*record):
                still.append(each)
            else:
                self._extents.give(*extent)
                self._events.append(event)
        self._live = still


def _retire(store: _Store) -> None:
    if store.fork_epoch == _core.fork_epoch():
        _retired.add(store)
        _free_retired()


def _free_retired() -> None:
    for store in list(_retired):
        if store.try_free():
            _retired.discard(store)


class DevicePool:
    """Memory of one CUDA device for tensors that other processes are to read there, without a copy.

    ```text
    with Ring.create() as ring, DevicePool.create(ring, "cuda:0", capacity="2GiB") as pool:
        hidden = pool.empty((4096, 8192), torch.bfloat16)   # fill it with kernels, on any stream
        torch.matmul(a, b, out=hidden)
        handle = ring.share(hidden, reader_peer_id)          # or Channel.send: no byte moves
    ```

    The reader's ``open`` gives a tensor on the same device; its current stream waits until the writer's stream, the one
    that was current in ``share``, has come so far. A block is reused when nobody holds it, by the leases of the ring
    and as those behind events: a process may drop a tensor while its kernels still read it.

    All readers see each other's writes: treat a shared tensor as read-only. Readers are processes of this host that
    see the same device; in the writer's own process ``open`` answers the same memory. Where CUDA does not share memory
    between processes (another IPC or PID namespace, MIG, some virtual GPUs) `create`, or a reader's ``open``, raises
    `DeviceError`. Tensors of torch's own allocator are no part of this: `put` copies them in, and whatever
    ``expandable_segments`` says is no matter.

    If the writer dies, readers go on with what they hold; a test on an H100 sees it, NVIDIA does not promise it.
    Thread-safe. In a forked child every call raises `ForkedError`.
    """

    def __init__(self, ring: Ring, store: _Store, on_full: OnFull, timeout_s: float) -> None:
        self._ring = ring
        self._store = store
        self._on_full = on_full
        self._timeout_s = timeout_s
        self._finalizer = weakref.finalize(self, _retire, store)
        self._finalizer.atexit = False

    @classmethod
    def create(
        cls,
        ring: Ring,
        device: str | torch.device = "cuda",
        *,
        capacity: int | str = "1GiB",
        on_full: OnFull = "inline",
        timeout_s: float = 10.0,
    ) -> Self:
        """A pool of ``capacity`` bytes of ``device``, all allocated now: choose the bytes of all its tensors that are
        alive at once, plus a fifth. ``ring`` lends its leases, and 128 bytes a tensor.

        ``on_full`` and ``timeout_s`` are as `Ring.create` has them. ``"inline"`` here answers ordinary memory of the
        device, which ``share`` then copies through the ring.

        Raises `ConfigError`, `DeviceError` if the memory cannot be had or not be shared, `RingFullError` if the ring
        has no room for 128 bytes, and what torch raises if there is no such device.
        """
        place = torch.device(device)
        if place.type != "cuda":
            raise ConfigError("device", device, 'one of CUDA\'s, such as "cuda:0"')
        check_on_full(on_full)
        nbytes = round_up(parse_size("capacity", capacity), _UNIT_NBYTES)
        place = cuda.used(place)
        _free_retired()
        memory = device_memory.allocate(place, nbytes)
        cuda.end_by_event(ring.attachment)
        return cls(ring, _Store(ring, memory), on_full, timeout_s)

    @property
    def device(self) -> torch.device:
        """Where its tensors are."""
        return self._store.memory.device

    def empty(self, shape: Iterable[int] | int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """An uninitialised tensor in the pool: fill it before it is shared. No room: as ``on_full`` says.

        Raises `RingFullError` or `WaitTimeoutError`, `ClosedError` after `close`. A tensor without elements is ordinary
        memory.
        """
        if not self._finalizer.alive:
            raise ClosedError("the device pool was closed")
        _, known = tensors.dtype_of(dtype)
        dims = tensors.dims_of(shape)
        nbytes = nbytes_of(known.code, dims)
        block = self._take(nbytes) if nbytes else None
        if block is None:
            return torch.empty(dims, dtype=dtype, device=self.device)
        return device_tensors.tensor_over(block, 0, known.code, dims)

    def put(self, tensor: torch.Tensor) -> torch.Tensor:
        """``tensor`` in the pool: one asynchronous copy on the device's current stream, from wherever it is; nothing at
        all if it is there already. No room: as ``on_full`` says, ``"inline"`` answers a copy in ordinary memory.

        Raises `UnsupportedTypeError` for what has no plain bytes, and what `empty` raises.
        """
        tensors.describe(tensor)
        if device_tensors.block_of(tensor, self._ring.id) is not None:
            return tensor
        return self.empty(tensor.shape, tensor.dtype).copy_(tensor.detach(), non_blocking=True)

    def room(self) -> tuple[int, int, int]:
        """Bytes in use, bytes in all, and the largest tensor that there is room for."""
        return self._store.room()

    def close(self) -> None:
        """No tensors are made here any more; idempotent. Those that there are stay valid.

        The device's memory is given back when no process has it open: at once if no reader holds a tensor of it or is
        still joined to the ring; otherwise when another pool is made or closed, or the process ends. Until then the
        ring stays.
        """
        self._finalizer()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _take(self, nbytes: int) -> device_tensors.Block | None:
        core = self._ring.attachment.core
        deadline = time.monotonic() + self._timeout_s
        while True:
            released = core.released()
            block = self._store.try_take(self._ring, nbytes)
            if block is not None:
                return block
            left_s = deadline - time.monotonic()
            waits = self._on_full == "block" and nbytes <= self._store.memory.nbytes
            if not waits or left_s <= 0:
                break
            core.wait_released(released, left_s)
        if self._on_full == "inline":
            core.count_inline(InlineReason.FULL)
            return None
        raise (WaitTimeoutError if waits else RingFullError)(self._shortage(nbytes))

    def _shortage(self, nbytes: int) -> str:
        """Expectation, reality, remedy."""
        used, total, largest = self.room()
        return (
            f"expected room for {nbytes} bytes of {self.device}, {used} of {total} are in live blocks, the largest "
            f"free extent has {largest}: drop tensors, or raise capacity"
        )
