"""The writing end: this process's ring, and what stands where vLLM's encoder offers tensors."""

import os
import threading
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from shmtransport.adapters import rings
from shmtransport.adapters.ahead import GrowsAhead
from shmtransport.adapters.leaving import Leaving
from shmtransport.adapters.rings import KEY
from shmtransport.adapters.settings import RingSize, Settings
from shmtransport.adapters.vllm import metrics, staging
from shmtransport.adapters.vllm.seams import logger
from shmtransport.errors import ShmTransportError
from shmtransport.handles import Handle
from shmtransport.layout import InlineReason
from shmtransport.ring import Ring


class SharedRing:
    """This process's ring: made for its first client, closed after its last. Thread-safe; forgotten by a fork."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.leaving = Leaving()
        self._forget()
        os.register_at_fork(after_in_child=self._forget)

    def _forget(self) -> None:
        self._lock = threading.RLock()  # a client may be collected, and so release, while another acquires
        self._users = 0
        self.ring: Ring | None = None
        self._growth: GrowsAhead | None = None

    def acquire(self, cache_gib: float, frontends: int) -> Ring:
        """The ring, made now if there is none; `release` it. Takes up to half a second the first time."""
        with self._lock:
            self._users += 1
            try:
                ring = self.ring or self._create(self.settings.input_ring(cache_gib, frontends))
            except BaseException:
                self._users -= 1
                raise
            return ring

    def _create(self, size: RingSize) -> Ring:
        ring = rings.create(size, self.settings, "vLLM frontend")
        self.leaving.note(ring.id)
        metrics.show(ring.id)
        self._growth = GrowsAhead(ring)
        self.ring = ring
        return ring

    def release(self, ring: Ring) -> None:
        with self._lock:
            if ring is not self.ring:
                return  # a fork lies between
            self._users -= 1
            if self._users == 0:
                self.ring = None
                if self._growth is not None:
                    self._growth.end()
                ring.close()

    def stage(self, mm_kwargs: Mapping[str, Iterable[Any]]) -> None:
        """`staging.stage`, if there is a ring."""
        ring, growth = self.ring, self._growth
        if ring is not None and growth is not None:
            staging.stage(mm_kwargs, ring, self.settings.threshold_nbytes)
            growth.look()

    def put(self, tensor: torch.Tensor) -> torch.Tensor:
        """``tensor`` in the ring, if there is one, there is room, and it is large enough; else itself."""
        ring, growth = self.ring, self._growth
        if ring is None or growth is None or tensor.nbytes < self.settings.threshold_nbytes:
            return tensor
        backed = rings.put(tensor, ring)
        growth.look()
        return backed


class Consumer:
    """Stands where vLLM's encoder offers tensors: answers a handle for what is in the ring and may be sent.

    Never raises: what is too small, not ring-backed or not for a process that has joined goes to ``inner``, or
    the encoder's own way. Copies nothing unless ``writes``: then what is not ring-backed yet is written first.
    Used by one thread at a time, as the encoder is.
    """

    def __init__(self, threshold_nbytes: int, inner: Any, *, writes: bool = False) -> None:
        self.inner = inner
        self.ring: Ring | None = None
        self._threshold_nbytes = threshold_nbytes
        self._writes = writes
        self._peer_id: str | None = None
        self._sent: list[Handle] | None = None

    def begin(self, peer_id: str | None) -> list[Handle]:
        """From here on tensors are for ``peer_id``; None: a process that has not joined. Answers what is sent."""
        self._peer_id, self._sent = peer_id, []
        return self._sent

    def end(self) -> None:
        self._peer_id, self._sent = None, None

    def new_message(self) -> None:
        if self.inner is not None:
            self.inner.new_message()

    def __call__(self, tensor: torch.Tensor) -> dict[str, Any] | None:
        if (
            self.ring is not None
            and self._sent is not None
            and tensor.is_cpu
            and tensor.nbytes >= self._threshold_nbytes
        ):
            try:
                handle = self._share(self.ring, tensor, self._sent)
            except ShmTransportError as error:
                logger.debug("inline, because sharing failed: %s", error)
                handle = None
            if handle is not None:
                return {KEY: bytes(handle)}
        return None if self.inner is None else self.inner(tensor)

    def _share(self, ring: Ring, tensor: torch.Tensor, sent: list[Handle]) -> Handle | None:
        if not self._writes and not ring.holds(tensor):
            return None
        if self._peer_id is None:
            ring.count_inline(InlineReason.NOT_JOINED)
            return None
        answer = ring.share(tensor, self._peer_id)
        if not isinstance(answer, Handle):
            return None
        sent.append(answer)
        return answer

    def __getattr__(self, name: str) -> Any:
        inner = self.__dict__.get("inner")
        if inner is None:
            raise AttributeError(name)
        return getattr(inner, name)
