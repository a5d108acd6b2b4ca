"""What the writer and every reader of a ring can do: share, open, look, leave."""

import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Final, Self, TypeAlias, overload

import msgspec
import torch

from shmtransport import _core, device_tensors, statistics, tensors
from shmtransport.attachment import Attachment
from shmtransport.errors import (
    ClosedError,
    ConfigError,
    ForkedError,
    HandleError,
    SegmentError,
    ShmTransportError,
    UnsupportedTypeError,
    WaitTimeoutError,
)
from shmtransport.handles import HANDLE_MAGIC, INLINE_MAGIC, KIND_DEVICE, KIND_NUMPY, KIND_TORCH, Handle, Inline
from shmtransport.layout import InlineReason, Status
from shmtransport.tensors import Description, Tensor

_REASONS = {
    Status.NOT_FOUND: InlineReason.NOT_BACKED,
    Status.NOT_JOINED: InlineReason.NOT_JOINED,
    Status.NO_TICKET: InlineReason.NO_TICKET,
    Status.UNMAPPABLE: InlineReason.UNMAPPABLE,
}

_HAS_CUDA = torch.backends.cuda.is_built()  # type: ignore[no-untyped-call]

# How often `drain` looks; short at first, since what is waited for is mostly on its way.
_FIRST_LOOK_S: Final = 0.0001
_LAST_LOOK_S: Final = 0.01

Sendable: TypeAlias = Handle | Inline
Sent: TypeAlias = Sendable | bytes | bytearray | memoryview


class Endpoint:
    """One process's end of a ring. Thread-safe; every call in a forked child raises `ForkedError`."""

    def __init__(self, attachment: Attachment) -> None:
        self._attachment: Attachment | None = attachment
        self._id = attachment.ring_id
        self._fork_epoch = _core.fork_epoch()

    @property
    def id(self) -> str:
        """The ring's id, 32 hexadecimal characters: all that a process of the same user needs to join it."""
        return self._id

    @property
    def peer_id(self) -> str:
        """This process's id in this ring, 32 hexadecimal characters: what others address it by in ``share``."""
        return self.attachment.peer_id.hex()

    @property
    def attachment(self) -> Attachment:
        """The place in the ring behind this object. Raises `ClosedError` after `close`, `ForkedError` in a child."""
        if self._fork_epoch != _core.fork_epoch():
            raise ForkedError(
                f"{type(self).__name__} of ring {self._id} was made before this process was forked: create or join anew"
            )
        if self._attachment is None:
            raise ClosedError(f"{type(self).__name__} of ring {self._id} was closed")
        return self._attachment

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._attachment is None

    def share(self, tensor: Tensor, readers: "str | Endpoint | Iterable[str | Endpoint]") -> Sendable:
        """A handle for ``tensor``, under one ticket for all ``readers``; send ``bytes(handle)`` to each of them.

        A tensor that is ring-backed in this ring moves no byte, nor do views and slices of it; a `Ring` writes
        any other one first, a `Reader` cannot. From here on
        the block stays until every reader has opened the handle, died, or the handle was revoked, even if the
        tensor itself is dropped at once. Readers are named by their `peer_id`.

        Answers `Inline`, which carries the bytes and is sent and opened in the same way, if a reader has not
        joined or cannot map the ring, if 2048 handles of this process are in flight, if the tensor has no
        bytes, or, from a reader, is not contiguous or lies in no block of this ring. Each is counted by reason
        in `statistics`. An inline answer may be the tensor's own memory: send it before the tensor changes.
        """
        return self.share_described(tensor, tensors.describe(tensor), peer_ids(readers))

    def share_described(self, tensor: Tensor, description: Description, readers: bytes) -> Sendable:
        """`share` for a caller that has described the tensor already; ``readers`` as `peer_ids` gives them."""
        block = self._device_block(tensor, description)
        if block is not None and isinstance(tensor, torch.Tensor):
            return self._share_block(block, tensor, description, readers)
        return self._share_at(description.address, tensor, description, readers)

    def _share_block(
        self, block: device_tensors.Block, tensor: torch.Tensor, description: Description, readers: bytes
    ) -> Sendable:
        """A handle for a view of a device's block: one of the block's record."""
        block.event.record()
        answer = self.attachment.core.share(block.lease.address, device_tensors.BLOCK.size, readers)
        return self._sent(answer, tensor, description, KIND_DEVICE, tensor.data_ptr() - block.address)

    def share_wire(self, tensor: Tensor, least_nbytes: int, readers: bytes) -> bytes | Inline | None:
        """`share_described` in one call of the core, answering the handle's bytes: for a plain tensor of
        ``least_nbytes`` and more, with nothing in the way. None: nothing was done, go by `share_described`."""
        attachment = self._attachment
        if attachment is None:
            return None
        sent = attachment.core.share_plain(tensor, least_nbytes, attachment.ring_id_bytes, readers)
        if isinstance(sent, int):
            return self._inline(tensor, tensors.describe(tensor), _REASONS[Status(sent)])
        return sent

    def _share_at(self, address: int | None, tensor: Tensor, description: Description, readers: bytes) -> Sendable:
        """A handle for the bytes at ``address``, which are those of ``tensor``."""
        attachment = self.attachment
        if description.nbytes == 0:
            return tensors.to_inline(tensor, description, InlineReason.SMALL)
        answer: tuple[int, int, int, int, int, int] | int = Status.NOT_FOUND
        if address is not None:
            answer = attachment.core.share(address, description.nbytes, readers)
        return self._sent(answer, tensor, description, description.kind)

    def _sent(
        self,
        answer: tuple[int, int, int, int, int, int] | int,
        tensor: Tensor,
        description: Description,
        kind: int,
        offset_on_device: int | None = None,
    ) -> Sendable:
        """What the core answered to a share: a handle, or the bytes inline, counted by reason."""
        if isinstance(answer, int):
            return self._inline(tensor, description, _REASONS[Status(answer)])
        entry, generation, offset, sender, ticket, sequence = answer
        return Handle(
            self.attachment.ring_id_bytes, entry, generation, offset if offset_on_device is None else offset_on_device,
            kind, description.dtype, description.shape, sender, ticket, sequence,
        )  # fmt: skip

    def _inline(self, tensor: Tensor, description: Description, reason: InlineReason) -> Inline:
        self.attachment.core.count_inline(reason)
        return tensors.to_inline(tensor, description, reason)

    @overload
    def open(self, sent: Sent) -> Tensor: ...
    @overload
    def open(
        self, sent: Sent, *, device: str | torch.device, stream: torch.cuda.Stream | None = None
    ) -> torch.Tensor: ...
    def open(
        self, sent: Sent, *, device: str | torch.device | None = None, stream: torch.cuda.Stream | None = None
    ) -> Tensor:
        """The tensor behind what ``share`` answered, here or elsewhere: zero copies for a handle.

        The lease ends when the last tensor or view over it has died, in any thread. Read-only mappings (a
        reader's default) look writable to torch; a write faults. Raises `HandleError` for anything damaged or
        of another ring, `StaleHandleError` if the block was given back, `SegmentError` if it cannot be mapped,
        `UnsupportedTypeError` for what is no bytes at all.

        In a process that uses CUDA the first call registers the ring's memory for DMA. From then on
        ``tensor.to("cuda", non_blocking=True)`` is as fast and as asynchronous as from pinned memory, and a lease
        ends behind whatever the process had enqueued when the last tensor died. A CUDA graph that reads the tensor
        keeps no lease: hold the tensor for as long as the graph is replayed.

        With ``device`` and ``stream``: as `open_all`, for one.
        """
        if device is not None:
            return self.open_all([sent], device=device, stream=stream)[0]
        attachment = self.attachment
        register(attachment)
        if not isinstance(sent, (Handle, Inline)):
            opened = attachment.core.open_plain(sent, attachment.ring_id_bytes)
            if opened is not None:
                return opened
            sent = _parse(sent)
        return tensors.from_inline(sent) if isinstance(sent, Inline) else _open(attachment, sent)

    def open_wire(self, wire: bytes | memoryview) -> Tensor:
        """`open` for the bytes of a handle, and nothing else."""
        attachment = self._attachment
        if attachment is not None:
            if _HAS_CUDA:
                register(attachment)
            opened = attachment.core.open_plain(wire, attachment.ring_id_bytes)
            if opened is not None:
                return opened
        return self.open(Handle.from_bytes(wire))

    def open_all(
        self, sent: Iterable[Sent], *, device: str | torch.device, stream: torch.cuda.Stream | None = None
    ) -> list[torch.Tensor]:
        """What was sent, each as a tensor on a CUDA ``device``: one DMA each, straight from the ring.

        Asynchronous: the tensors may be used on ``stream`` (default: the device's current one) at once, elsewhere once
        the stream has come so far. Their leases end together, by one event. Arrays become tensors too.

        Raises `ConfigError` if the device is none of CUDA's and what torch raises if there is no such device, both
        before anything is opened; then what `open` raises, and every handle is refused.
        """
        place = torch.device(device)
        if place.type != "cuda":
            raise ConfigError("device", device, 'one of CUDA\'s, such as "cuda:0"; leave it out for the CPU')
        from shmtransport import cuda

        cuda.prepare(place)
        waiting = list(sent)
        try:
            return cuda.move([torch.as_tensor(self.open(_as_torch(each))) for each in waiting], place, stream)
        except BaseException:
            for each in waiting:
                with suppress(ShmTransportError):  # it may be the one that cannot be read
                    self.refuse(_as_torch(each))
            raise

    def revoke(self, sent: Sendable, readers: "str | Endpoint | Iterable[str | Endpoint] | None" = None) -> bool:
        """Takes a handle back that was not, or will not be, delivered: a send failed, a request was aborted.
        ``readers`` limits that to some of those it was shared with.

        Always safe: a late open gets a lease or `StaleHandleError`, never other bytes. False if every reader
        had opened it, if another process sent it, or it is `Inline`.
        """
        if isinstance(sent, Inline) or sent.ring_id.hex() != self._id or sent.sender != self.attachment.index:
            return False
        return self.attachment.core.revoke(sent.ticket, sent.sequence, b"" if readers is None else peer_ids(readers))

    def refuse(self, sent: Sendable) -> None:
        """Tells the sender of a handle that it will not be opened here, so that it need not keep the block.

        What cannot be opened is refused by itself. Harmless for a handle that was opened.
        """
        if isinstance(sent, Handle) and sent.ring_id == self.attachment.ring_id_bytes:
            self.attachment.core.acknowledge(sent.sender, sent.ticket, sent.sequence)

    def holds(self, tensor: Tensor) -> bool:
        """Whether ``tensor`` is ring-backed in this ring."""
        description = tensors.describe(tensor)
        return self._holds(description) or self._device_block(tensor, description) is not None

    def _device_block(self, tensor: Tensor, description: Description) -> device_tensors.Block | None:
        """The block of a `DevicePool` of this ring that ``tensor`` is a view of."""
        if description.address is not None or description.nbytes == 0 or not isinstance(tensor, torch.Tensor):
            return None
        return device_tensors.block_of(tensor, self._id)

    def _holds(self, description: Description) -> bool:
        address = description.address
        return address is not None and self.attachment.core.holds(address, description.nbytes)

    def statistics(self) -> statistics.RingStatistics:
        """Who holds what, what was moved, what went inline and why. Takes no lease."""
        return statistics.read(self.attachment)

    def count_inline(self, reason: InlineReason) -> None:
        """Counts a transfer that an adapter sent inline, for `statistics`."""
        self.attachment.core.count_inline(reason)

    def peers(self) -> list[str]:
        """The `peer_id` of every other living process of this ring: of a `Ring`, all its readers, as in
        ``ring.share(tensor, ring.peers())``."""
        own = self.peer_id
        return [each.peer_id for each in self.statistics().processes if each.alive and each.peer_id != own]

    def drain(self, *, timeout_s: float = 10.0) -> None:
        """Waits until no handle of this process is on its way: each was opened, refused or revoked, or its reader died.

        Before a process ends whose last handles are to arrive: a handle that is opened after its sender is gone raises
        `StaleHandleError`. Raises `WaitTimeoutError`, which names who has not opened what.
        """
        deadline = time.monotonic() + timeout_s
        pause_s = _FIRST_LOOK_S
        while True:
            seen = self.statistics()
            if not any(process.unopened for process in seen.processes):
                return
            if time.monotonic() >= deadline:
                raise WaitTimeoutError(f"expected every handle to be opened within {timeout_s} s; {seen.holders()}")
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _LAST_LOOK_S)
            self.reap()

    def reap(self) -> int:
        """Gives back what dead readers of this ring held; returns how many there were.

        A writer without room does this by itself.
        """
        return self.attachment.core.reap()

    def close(self) -> None:
        """Ends this object's use of the ring; idempotent.

        Tensors stay valid, and so do handles on their way: the process leaves the ring when its last tensor
        over it has died and its last ticket is settled. The last process to leave removes the ring's names.
        """
        self._attachment = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._id}{' closed' if self.closed else ''}>"


def _open(attachment: Attachment, handle: Handle) -> Tensor:
    if handle.ring_id != attachment.ring_id_bytes:
        raise HandleError(f"expected a handle of ring {attachment.ring_id}, got one of {handle.ring_id.hex()}")
    nbytes = handle.nbytes
    if not 0 < nbytes < 1 << 63:
        raise HandleError(f"a handle of {nbytes} bytes: such tensors travel inline")
    place = (handle.offset, nbytes) if handle.kind != KIND_DEVICE else (0, device_tensors.BLOCK.size)
    while True:
        lease = attachment.core.open(
            handle.entry, handle.generation, *place, handle.sender, handle.ticket, handle.sequence
        )
        if not isinstance(lease, int):
            if handle.kind == KIND_DEVICE:
                return device_tensors.open_tensor(attachment, lease, handle)
            return tensors.build(lease, handle.kind, handle.dtype, handle.shape)
        try:
            attachment.map_segment(lease)
        except SegmentError:
            attachment.core.acknowledge(handle.sender, handle.ticket, handle.sequence)
            raise


def register(attachment: Attachment) -> None:
    """`cuda.register` what is not yet, in a process that uses CUDA and does not capture a graph just now."""
    if not _HAS_CUDA or not attachment.unregistered:
        return
    if torch.cuda.is_initialized() and not torch.cuda.is_current_stream_capturing():  # type: ignore[no-untyped-call]
        from shmtransport import cuda

        cuda.register(attachment)


def revoke_all(sent: "Iterable[tuple[Endpoint, Handle, list[str] | None]]") -> None:
    """`Endpoint.revoke` of each, for some readers or all, after something else has failed: an end that was closed
    meanwhile is passed over."""
    for endpoint, handle, readers in sent:
        with suppress(ShmTransportError):
            endpoint.revoke(handle, readers)


def peer_ids(readers: str | Endpoint | Iterable[str | Endpoint]) -> bytes:
    """The 16-byte ids of ``readers``, joined."""
    if isinstance(readers, str):
        try:
            raw = bytes.fromhex(readers)
        except ValueError:
            raw = b""
        if len(raw) != 16:
            raise ConfigError("readers", readers, "peer ids of 32 hexadecimal characters, as in Reader.peer_id")
        return raw
    if isinstance(readers, Endpoint):
        return readers.attachment.peer_id
    joined = b"".join(peer_ids(reader) for reader in readers)
    if not joined:
        raise ConfigError("readers", readers, "at least one reader")
    return joined


def _as_torch(sent: Sent) -> Sendable:
    """Of a tensor, be it sent as an array."""
    sent = sent if isinstance(sent, (Handle, Inline)) else _parse(sent)
    return msgspec.structs.replace(sent, kind=KIND_TORCH) if sent.kind == KIND_NUMPY else sent


def _parse(wire: bytes | bytearray | memoryview) -> Sendable:
    try:
        first = bytes(memoryview(wire)[:1])
    except TypeError:
        raise UnsupportedTypeError(
            f"expected a Handle, an Inline or the bytes of one, got {type(wire).__qualname__}"
        ) from None
    if first == bytes([HANDLE_MAGIC]):
        return Handle.from_bytes(wire)
    if first == bytes([INLINE_MAGIC]):
        return Inline.from_bytes(wire)
    raise HandleError(f"expected a handle or inline bytes, got first byte {first!r}")
