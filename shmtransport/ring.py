"""The writing end of a ring."""

import time
from collections.abc import Iterable
from typing import Self, TypeVar, cast, overload

import numpy.typing as npt
import torch

from shmtransport import _core, attachment, copying, tensors
from shmtransport.attachment import Attachment
from shmtransport.config import BackingChoice, OnFull, RingConfig
from shmtransport.endpoint import Endpoint, Sendable
from shmtransport.errors import RingFullError, SegmentError, ShmTransportError, WaitTimeoutError
from shmtransport.handles import nbytes_of
from shmtransport.layout import InlineReason, Status
from shmtransport.tensors import Array, Description, Tensor

# A waiting writer hears signals, Ctrl-C above all, this often.
_SIGNAL_SLICE_S = 0.1

T = TypeVar("T", bound=Tensor)


class Ring(Endpoint):
    """A ring of shared-memory segments and the right to write into it.

    ```python
    import torch
    from shmtransport import Reader, Ring

    # As a rule the reader is in another process, and the message crosses a socket.
    with Ring.create(capacity="64MiB") as ring, Reader.join(ring.id) as reader:
        pixels = ring.put(torch.ones(3, 896, 896))  # one copy: a tensor over a block
        message = bytes(ring.share(pixels, reader.peer_id))  # under 128 bytes
        assert torch.equal(reader.open(message), pixels)  # no copy
    ```

    A block is given back when nobody holds it: this process's tensors over it are gone, every handle was
    opened, revoked or its reader died, and every reader's tensors are gone. Thread-safe. In a forked child
    every call raises `ForkedError` and a load from an inherited tensor faults.
    """

    def __init__(self, place: Attachment, config: RingConfig) -> None:
        super().__init__(place)
        self._config = config

    @classmethod
    def create(
        cls,
        capacity: int | str = "1GiB",
        *,
        segment: int | str = "64MiB",
        on_full: OnFull = "inline",
        timeout_s: float = 10.0,
        entries: int | None = None,
        copy_kernel: str | None = None,
        name: str = "",
        backing: BackingChoice = "auto",
    ) -> Self:
        """A new ring with this process as its writer.

        ``capacity``: most bytes that all segments together may take; choose the bytes of all tensors that are
        alive at once, plus a fifth. ``segment``: the ring begins with one segment of this size and grows by
        whole ones, pre-faulted when they are added; a tensor larger than a segment gets its own. Both take
        bytes or text ("512MiB", "1 GB").

        ``on_full``, when there is no room after growth and after reaping the dead: ``"inline"``, `put` answers
        its argument and the bytes travel in the message (counted); ``"block"``, wait up to ``timeout_s`` for a
        release, then raise `WaitTimeoutError`; ``"raise"``, raise `RingFullError` at once. Both name the
        holders. If it is the host that has no shared memory left they raise `OutOfSharedMemoryError`, and if it
        refuses a further segment for another reason, as out of file descriptors, `SegmentError`.

        ``backing``: ``"posix"``, named segments in /dev/shm; ``"memfd"``, anonymous and sealed ones, which take
        memory that /dev/shm's size does not bound, leave nothing whatever dies, and which readers cannot map
        writable. ``"auto"`` is what the environment variable SHMTRANSPORT_BACKING says; without it posix if
        /dev/shm has room for the whole capacity now, else memfd. Readers find either by the ring's id.

        ``entries``: most blocks alive at once (default: one for each 64 KiB of capacity, 1024 to 16384).
        ``copy_kernel``: how `put` copies, for all rings of this process; by default measured once, in 50 to
        100 ms (`shmtransport.copying`). ``name``: a label for people, 31 bytes.

        Raises `ConfigError`, `OutOfSharedMemoryError` before anything is written, or `SegmentError` for what else
        the host refuses; nothing is left behind then. First removes what dead processes of this user left in
        /dev/shm.
        """
        config = RingConfig.checked(
            capacity=capacity,
            segment=segment,
            entries=entries,
            on_full=on_full,
            timeout_s=timeout_s,
            name=name,
            backing=backing,
        )
        copying.prepare(copy_kernel)
        return cls(attachment.create(config), config)

    def put(self, tensor: T) -> T:
        """``tensor`` in the ring: one copy, made contiguous by it; nothing at all if it is in this ring already.

        Any dtype torch has but quantized ones, any shape, any device; numpy arrays stay arrays. A tensor
        without elements is answered as it is, and so is one that found no room under ``on_full="inline"``.
        Autograd history stays behind. Raises `UnsupportedTypeError` (sparse, meta, quantized, objects,
        big-endian), and what `create` says about ``on_full``.
        """
        description = tensors.describe(tensor)
        if self._holds(description):
            return tensor
        lease = self._write(tensor, description)
        if lease is None:
            return tensor
        return cast(T, tensors.build(lease, description.kind, description.dtype, description.shape))

    @overload
    def empty(self, shape: Iterable[int] | int, dtype: torch.dtype = torch.float32) -> torch.Tensor: ...
    @overload
    def empty(self, shape: Iterable[int] | int, dtype: npt.DTypeLike) -> Array: ...
    def empty(self, shape: Iterable[int] | int, dtype: torch.dtype | npt.DTypeLike = torch.float32) -> Tensor:
        """An uninitialised ring-backed tensor to be filled in place: no byte moves twice.

        A torch dtype makes a tensor, a numpy dtype an array. Fill it before it is shared. No room: as `put`,
        with ordinary memory for ``"inline"``.
        """
        kind, known = tensors.dtype_of(dtype)
        dims = tensors.dims_of(shape)
        nbytes = nbytes_of(known.code, dims)
        lease = self._allocate(nbytes)
        return tensors.empty(kind, known.code, dims) if lease is None else tensors.build(lease, kind, known.code, dims)

    def grow(self) -> bool:
        """Adds a segment; False if the capacity does not allow one more. Raises what `create` says of the host."""
        return self.attachment.grow(1)

    def grow_ahead(self) -> bool:
        """Adds a segment if no free extent is as large as one; whether it did, so call it until it did not.

        Fresh pages cost more than the copy into them: call it where nobody waits, after a `put`. Raises
        what `create` says of the host; the ring stays usable.
        """
        _, _, largest_free_nbytes, _ = self.attachment.core.room()
        return largest_free_nbytes < self.attachment.segment_nbytes and self.grow()

    def share_described(self, tensor: Tensor, description: Description, readers: bytes) -> Sendable:
        """As `Endpoint.share_described`; a tensor that is not in the ring yet is written there first."""
        if description.nbytes == 0 or self._holds(description) or self._device_block(tensor, description):
            return super().share_described(tensor, description, readers)
        lease = self._write(tensor, description)
        if lease is None:
            return tensors.to_inline(tensor, description, InlineReason.FULL)
        return self._share_at(lease.address, tensor, description, readers)

    def write_record(self, record: bytes) -> _core.Lease:
        """A block of these bytes, for the leases of something that lies elsewhere (`device_tensors`).

        No room: as `put`, but `RingFullError` for ``"inline"`` too.
        """
        lease = self._allocate(len(record))
        if lease is None:
            raise RingFullError(self._shortage(len(record)))
        memoryview(lease)[:] = record
        return lease

    def _write(self, tensor: Tensor, description: Description) -> _core.Lease | None:
        """The one copy. None: it found no room, which is counted, and is to go inline."""
        lease = self._allocate(description.nbytes)
        if lease is not None:
            core = self.attachment.core
            began_ns = time.monotonic_ns()
            tensors.fill(lease, tensor, description, core.used_nbytes())
            core.count_copied(description.nbytes, time.monotonic_ns() - began_ns)
        return lease

    def _allocate(self, nbytes: int) -> _core.Lease | None:
        """A block, or None when there are no bytes, or they are to go inline."""
        core = self.attachment.core
        if nbytes == 0:
            return None
        lease, shortage = self._allocate_or_grow(nbytes)
        if lease is None and core.reap():
            lease, shortage = self._allocate_or_grow(nbytes)
        if lease is None and self._config.on_full == "block" and nbytes <= self._config.capacity_nbytes:
            lease, shortage = self._allocate_or_wait(nbytes)
        if lease is None and self._config.on_full == "inline":
            core.count_inline(InlineReason.FULL)
        elif lease is None:
            try:
                raise self._no_room(nbytes, shortage)
            finally:
                del shortage  # or the error keeps this frame, and the frame the error
        return lease

    def _allocate_or_grow(self, nbytes: int) -> tuple[_core.Lease | None, SegmentError | None]:
        """A block if there is room now, or will be with further segments; else what the host refused."""
        place = self.attachment
        while True:
            lease = place.core.allocate(nbytes)
            if not isinstance(lease, int):
                return lease, None
            if lease != Status.FULL:  # no entry in the block table: a segment would not help
                return None, None
            try:
                if not place.grow(nbytes):  # to the capacity, perhaps by another thread since we looked
                    lease = place.core.allocate(nbytes)
                    return (None if isinstance(lease, int) else lease), None
            except SegmentError as error:
                return None, _without_frames(error)

    def _allocate_or_wait(self, nbytes: int) -> tuple[_core.Lease | None, SegmentError | None]:
        """As `_allocate_or_grow` until the deadline; a release by anybody wakes it at once."""
        deadline = time.monotonic() + self._config.timeout_s
        while True:
            left_s = deadline - time.monotonic()
            if left_s > 0:
                lease = self.attachment.core.allocate(nbytes, min(left_s, _SIGNAL_SLICE_S))
                if not isinstance(lease, int):
                    return lease, None
            grown = self._allocate_or_grow(nbytes)
            if grown[0] is not None or left_s <= 0:
                return grown

    def _no_room(self, nbytes: int, shortage: SegmentError | None) -> ShmTransportError:
        if shortage is not None:
            return shortage
        if self._config.on_full == "block" and nbytes <= self._config.capacity_nbytes:
            return WaitTimeoutError(f"{self._shortage(nbytes)}; waited {self._config.timeout_s} s for a release")
        return RingFullError(self._shortage(nbytes))

    def _shortage(self, nbytes: int) -> str:
        """Expectation, reality, remedy."""
        used, total, largest, live = self.attachment.core.room()
        capacity = self._config.capacity_nbytes
        if nbytes > capacity:
            return f"expected room for {nbytes} bytes, the capacity is {capacity}: raise it above the largest tensor"
        return (
            f"expected room for {nbytes} bytes, {used} of {total} bytes (capacity {capacity}) are in {live} live "
            f"blocks, the largest free extent has {largest}; {self.statistics().holders()}: drop tensors, or raise "
            "capacity or entries"
        )


def _without_frames(error: SegmentError) -> SegmentError:
    """To be kept: the frames that it came through would keep the ring and the caller's tensors, until the next
    garbage collection."""
    error.__traceback__ = error.__cause__ = error.__context__ = None
    return error
