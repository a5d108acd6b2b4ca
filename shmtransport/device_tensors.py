"""Device tensors under the lease words of a ring: a block of a device's memory is named by a *record*, an ordinary
block of the ring.

    ring (shared memory)                                       device
    pool's record    UUID, the driver's handle of the memory   +-------------------------------+
    block's record   pool's record, offset, nbytes, event ---> | free | block | block | free   |
                                                               +-------------------------------+

A handle of a device tensor is a handle of the block's record, with the offset inside the device's block. So `put`,
`share`, `open`, death and reaping are those of the ring: whoever holds the record's lease may use the block, and the
writer reuses the device's bytes when the record's mask is 0. A reader holds the pool's record for as long as it has the
memory open. Leases end by event (`cuda`), as those of any tensor that a device may still read.

Trust: records lie in memory that only the writer writes; every bound is checked against what the driver says.
"""

import os
import struct
import threading
from collections.abc import Callable
from typing import Any, Final, TypeAlias
from weakref import WeakValueDictionary

import torch

from shmtransport import _core, cuda, device_memory, dtypes
from shmtransport.attachment import Attachment
from shmtransport.device_memory import Event, Memory
from shmtransport.errors import HandleError
from shmtransport.handles import Handle, nbytes_of
from shmtransport.layout import WRITER

POOL: Final = struct.Struct("<8s16s64s")
"""POOL_MAGIC, UUID of the device, the driver's handle of the memory."""
BLOCK: Final = struct.Struct("<8sIIQQ64s")
"""BLOCK_MAGIC, entry and generation of the pool's record, offset in its memory, nbytes, the driver's handle of the
event."""
POOL_MAGIC: Final = b"shmtpool"
BLOCK_MAGIC: Final = b"shmtdevi"

Key: TypeAlias = tuple[int, int]
"""Of a record: entry and generation."""

_lock = threading.RLock()
_memories: WeakValueDictionary[tuple[str, Key], Memory] = WeakValueDictionary()
_blocks: WeakValueDictionary[tuple[str, Key], "Block"] = WeakValueDictionary()
_by_address: WeakValueDictionary[int, "Block"] = WeakValueDictionary()


def _forget() -> None:
    global _lock
    _lock = threading.RLock()
    for known in (_memories, _blocks, _by_address):
        known.clear()


os.register_at_fork(after_in_child=_forget)


class Block:
    """What a device tensor's storage holds: the record's lease, and the memory. One a block and process."""

    __slots__ = ("__weakref__", "address", "event", "lease", "memory", "nbytes", "ring_id")

    def __init__(
        self, ring_id: str, lease: _core.Lease, memory: Memory, offset: int, nbytes: int, event: Event
    ) -> None:
        self.ring_id = ring_id
        self.lease = lease
        self.memory = memory
        self.address = memory.address + offset
        self.nbytes = nbytes
        self.event = event

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """By which torch makes a storage that keeps this object alive."""
        return {"shape": (self.nbytes,), "typestr": "|u1", "data": (self.address, False), "version": 3}


def made(attachment: Attachment, lease: _core.Lease, memory: Memory, offset: int, nbytes: int, event: Event) -> Block:
    """The writer's own block, whose record is written."""
    with _lock:
        return _known(attachment, lease, Block(attachment.ring_id, lease, memory, offset, nbytes, event))


def know_memory(attachment: Attachment, lease: _core.Lease, memory: Memory) -> None:
    """The writer's own memory, as whose record ``lease`` is: CUDA opens none in the process that allocated it."""
    with _lock:
        _memories[_name(attachment, lease)] = memory


def tensor_over(block: Block, offset: int, dtype: int, shape: tuple[int, ...]) -> torch.Tensor:
    """The tensor at ``offset`` of ``block``; the lease ends with its storage. `HandleError` if it is not within."""
    known, nbytes = dtypes.TABLE[dtype], nbytes_of(dtype, shape)
    if known.torch is None or offset % known.itemsize or not 0 <= offset <= block.nbytes - nbytes:
        raise HandleError(f"expected {nbytes} bytes of {known.name} within {block.nbytes} of a device, at {offset}")
    flat: torch.Tensor = over(block)
    return flat[offset : offset + nbytes].view(known.torch).view(shape)


over: Callable[[Block], torch.Tensor] = torch.as_tensor
"""All bytes of a block, as uint8. Tests without a device have another."""


def block_of(tensor: torch.Tensor, ring_id: str) -> Block | None:
    """The block of that ring which the contiguous ``tensor`` is a view of."""
    if not _blocks or not tensor.is_contiguous() or tensor.is_neg() or (tensor.is_complex() and tensor.is_conj()):
        return None
    block = _by_address.get(tensor.untyped_storage().data_ptr())
    return block if block is not None and block.ring_id == ring_id else None


def open_tensor(attachment: Attachment, lease: _core.Lease, handle: Handle) -> torch.Tensor:
    """The tensor of ``handle``, to whose record ``lease`` is; its device's current stream waits until it is complete.

    Raises `HandleError` for a record that contradicts the driver, `DeviceError` if the device cannot be reached.
    """
    with _lock:
        block = _blocks.get(_name(attachment, lease)) or _open(attachment, lease)
    block.event.wait()
    return tensor_over(block, handle.offset, handle.dtype, handle.shape)


def _open(attachment: Attachment, lease: _core.Lease) -> Block:
    magic, entry, generation, offset, nbytes, event = BLOCK.unpack_from(lease)
    if magic != BLOCK_MAGIC:
        raise HandleError("a handle of a device tensor names a block that is no record of one")
    memory = _memory(attachment, (entry, generation))
    if not 0 < nbytes <= memory.nbytes or offset > memory.nbytes - nbytes:
        raise HandleError(f"a record names {nbytes} bytes at {offset}, of a device's memory of {memory.nbytes}")
    if event not in memory.events:
        memory.events[event] = Event.open(memory.device, event)
    block = Block(attachment.ring_id, lease, memory, offset, nbytes, memory.events[event])
    return _known(attachment, lease, block)


def _known(attachment: Attachment, lease: _core.Lease, block: Block) -> Block:
    _blocks[_name(attachment, lease)] = block
    _by_address[block.address] = block
    return block


def _memory(attachment: Attachment, pool: Key) -> Memory:
    """Opened once a process and ring; stays open while the ring is joined or a tensor is over it."""
    memory = _memories.get((attachment.ring_id, pool))
    if memory is None:
        record = _pool_record(attachment, pool)
        magic, uuid, handle = POOL.unpack_from(record)
        if magic != POOL_MAGIC:
            raise HandleError("a record of a device tensor names a block that is no record of a pool")
        cuda.load()
        cuda.end_by_event(attachment)
        memory = device_memory.open_named(uuid, handle, keep=record)
        _memories[attachment.ring_id, pool] = memory
        attachment.device_memories.append(memory)
    return memory


def _pool_record(attachment: Attachment, pool: Key) -> _core.Lease:
    """A lease on it without a ticket: while one of its blocks is held, as by our caller, the writer holds it."""
    while True:
        lease = attachment.core.open(*pool, 0, POOL.size, WRITER, 0, 0)  # no ticket has the sequence 0
        if not isinstance(lease, int):
            return lease
        attachment.map_segment(lease)


def _name(attachment: Attachment, record: _core.Lease) -> tuple[str, Key]:
    return attachment.ring_id, (record.entry, record.generation)
