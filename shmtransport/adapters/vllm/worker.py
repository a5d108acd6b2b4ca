"""In a worker: joining frontends' rings, and opening the handles that its EngineCore forwards.

Nothing of vLLM is wrapped here. The EngineCore has `join_ring` run by `collective_rpc`; pickle calls
`open_handle` while a message is read.
"""

import os
import threading
from typing import Any, Final

import torch

from shmtransport.adapters.rings import ERROR, JoinedRings
from shmtransport.adapters.settings import Settings
from shmtransport.errors import ConfigError, HandleError
from shmtransport.handles import Handle

_rings: Final[list[JoinedRings]] = []
_lock = threading.Lock()
os.register_at_fork(after_in_child=_rings.clear)


def join_ring(worker: Any, ring_id: str, handle_version: int) -> dict[str, str]:
    """As `JoinedRings.join`; ``worker`` is what vLLM runs it on. Segments are mapped read-only by default."""
    try:
        settings = Settings.from_environment()
    except ConfigError as error:
        return {ERROR: str(error)}
    if not settings.enabled:
        return {ERROR: "the worker has SHMTRANSPORT_ENABLE=0"}
    with _lock:
        if not _rings:
            _rings.append(JoinedRings(f"worker {getattr(worker, 'rank', '')}".strip(), writable=settings.writable))
    return _rings[0].join(ring_id, handle_version)


def open_handle(wire: bytes) -> torch.Tensor:
    """The tensor behind a forwarded handle: no copy, and a lease of this process.

    Its EngineCore holds the block meanwhile, so it cannot be stale. Raises `HandleError` for what was not
    forwarded to this worker; vLLM ends an engine whose worker cannot read a message.
    """
    if not _rings:
        raise HandleError("a handle was forwarded to a worker that has joined no ring")
    return _rings[0].open(Handle.from_bytes(wire))
