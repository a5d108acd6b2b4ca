"""A scheduler's rank: the rings it has joined, and the tensors of requests that have reached it."""

import os
import threading
from collections.abc import Iterator, Sequence
from typing import Any, Final

import torch

from shmtransport import handles
from shmtransport.adapters.rings import ERROR, JoinedRings
from shmtransport.adapters.seams import Module, Seam, Wrapper
from shmtransport.adapters.settings import Settings
from shmtransport.adapters.sglang.hooks import logger
from shmtransport.errors import HandleError, ShmTransportError
from shmtransport.handles import Handle

MODULE: Final = "sglang.srt.managers.scheduler_components.request_receiver"
REFUSED: Final = "Failed to open multimodal features in shared memory on a scheduler rank."


class Rank:
    """What this process has joined, if it is a rank. Thread-safe; forgotten by a fork."""

    def __init__(self, settings: Settings) -> None:
        self._copies = settings.writable
        self._forget()
        os.register_at_fork(after_in_child=self._forget)

    def _forget(self) -> None:
        self._rings: JoinedRings | None = None
        self._asked: set[str] = set()
        self._lock = threading.Lock()

    def join(self, ring_id: str, name: str) -> None:
        """Joins a ring, once; one warning if that cannot be. Its writer sees it in the ring."""
        with self._lock:
            if ring_id in self._asked:
                return
            self._asked.add(ring_id)
            if self._rings is None:
                self._rings = JoinedRings(name, writable=False)
            answer = self._rings.join(ring_id, handles.VERSION)
        if ERROR in answer:
            logger.warning(
                "shmtransport is off, tensors go SGLang's own way: %s did not join ring %s: %s",
                name,
                ring_id[:8],
                answer[ERROR],
            )

    def open(self, handle: bytes) -> torch.Tensor:
        """The tensor behind ``handle``, with a lease. Raises `HandleError` for a ring that was not joined, and what
        `Reader.open` raises."""
        return self._joined().open_wire(handle)

    def owned(self, tensor: torch.Tensor) -> torch.Tensor:
        """This rank's to write into, a copy, with SHMTRANSPORT_WRITABLE=1; else ``tensor`` itself."""
        return tensor.clone() if self._copies else tensor

    def refuse(self, handle: bytes) -> None:
        """It will not be opened here. Raises nothing."""
        try:
            refused = Handle.from_bytes(handle)
            self._joined().reader(refused.ring_id).refuse(refused)
        except ShmTransportError as error:
            logger.debug("not refused: %s", error)

    def _joined(self) -> JoinedRings:
        if self._rings is None:
            raise HandleError("a handle reached a rank that has joined no ring")
        return self._rings


def _single_requests(requests: Sequence[Any]) -> Iterator[Any]:
    for request in requests:
        yield from getattr(request, "batch", None) or (request,)


def _pointers_of(request: Any, kind: type) -> Iterator[Any]:
    """Those that stand in a request in place of its tensors."""
    for item in getattr(getattr(request, "mm_inputs", None), "mm_items", None) or ():
        for value in (item.feature, item.precomputed_embeddings):
            for each in value if isinstance(value, (list, tuple)) else (value,):
                if isinstance(each, kind):
                    yield each


def _reduced(failed: torch.Tensor) -> torch.Tensor:
    """Over all ranks that have the same requests: the groups in which SGLang broadcasts them."""
    from sglang.srt.runtime_context import get_parallel
    from torch.distributed import ReduceOp, all_reduce

    parallel = get_parallel()
    if parallel.attn_dp_enabled:
        groups = [(parallel.attn_tp_size, "attn_tp_group"), (parallel.attn_cp_size, "attn_cp_group")]
    else:
        groups = [(parallel.tp_size, "tp_group")]
    for size, name in groups:
        if size > 1:
            all_reduce(failed, op=ReduceOp.MAX, group=getattr(parallel, name).cpu_group)
    return failed


def _materialize(requests: Sequence[Any]) -> None:
    """Tensors in place of the pointers, or an error in place of the inputs, in all ranks alike.

    SGLang waits at a barrier first, lest a rank unlinks a segment that another has not opened. A handle's block has a
    lease of its sender until each rank has opened it, so nobody waits here; what failed is still told to all.
    """
    from sglang.srt.managers.io_struct import MMInputsProcessError
    from sglang.srt.managers.mm_utils import discard_shm_features, unwrap_shm_features

    failed = torch.zeros(len(requests), dtype=torch.int32)
    for index, request in enumerate(requests):
        try:
            unwrap_shm_features(request)
        except Exception:  # noqa: BLE001 - of one request, whatever it is; SGLang does the same
            logger.exception("features in shared memory could not be opened for rid=%s", request.rid)
            discard_shm_features(request)
            failed[index] = 1
    for request, has_failed in zip(requests, _reduced(failed).tolist(), strict=True):
        if has_failed:
            discard_shm_features(request)
            request.mm_inputs = MMInputsProcessError(REFUSED)


def module(rank: Rank) -> Module:
    """The seam in SGLang's request receiver."""

    def finalize(original: Wrapper, receiver: Any, requests: Sequence[Any] | None) -> None:
        from sglang.srt.managers.mm_utils import ShmPointerMMData

        from shmtransport.adapters.sglang.ranks import own_name

        pointing: list[Any] = []
        by_handle = receiver.model_config.is_multimodal
        for request in _single_requests(requests or ()):
            pointers = list(_pointers_of(request, ShmPointerMMData))
            if pointers:
                pointing.append(request)
            for pointer in pointers:
                by_handle = by_handle and pointer.handle is not None
                if pointer.announced is not None:
                    rank.join(pointer.announced, own_name())
        if pointing and by_handle:
            _materialize(pointing)
        else:
            original(receiver, requests)

    seam = Seam("SchedulerRequestReceiver", "_finalize_shm_features", ("self", "recv_reqs"), finalize, "all_reduce")
    return Module(MODULE, (seam,))
