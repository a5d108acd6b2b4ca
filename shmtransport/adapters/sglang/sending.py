"""A tokenizer: its ring, what of a request is in it, and handles in place of SGLang's pointers."""

import asyncio
import threading
import time
import weakref
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import replace
from typing import Any, Final

import torch
from torch.utils.weak import WeakTensorKeyDictionary

from shmtransport import tensors
from shmtransport.adapters import rings
from shmtransport.adapters.ahead import GrowsAhead
from shmtransport.adapters.leaving import Leaving
from shmtransport.adapters.seams import Module, Seam, Wrapper
from shmtransport.adapters.settings import Settings
from shmtransport.adapters.sglang.hooks import logger
from shmtransport.endpoint import Sendable, peer_ids, revoke_all
from shmtransport.errors import ShmTransportError
from shmtransport.handles import Handle, Inline
from shmtransport.ring import Ring

JOIN_TIMEOUT_S: Final = 60.0
"""So long after the first announcement a rank that has not joined is named, once. It may still come."""


class Sender:
    """A tokenizer's ring, and the ranks that may get its handles: none, until all of them have joined.

    The ring is made in a thread when the first request with tensors comes; that one, and those that come before all
    ranks have joined, go SGLang's own way and announce the ring. Thread-safe.
    """

    def __init__(self, settings: Settings, ranks: frozenset[str]) -> None:
        self.ring: Ring | None = None
        self._settings = settings
        self._ranks = ranks
        self._peers: bytes | None = None
        self._announced_s: float | None = None
        self._said_who = self._said_on = False
        self._copies: Any = WeakTensorKeyDictionary()
        self._lock = threading.Lock()
        self._leaving = Leaving()
        self._growths: list[GrowsAhead] = []
        self.close = weakref.finalize(self, _close, self._growths)
        """Idempotent; also when the sender is collected, and at exit. Handles on their way stay good."""
        threading.Thread(target=self._create, name="shmtransport-ring", daemon=True).start()

    def _create(self) -> None:
        size = replace(self._settings, writable=False).input_ring(0.0, 1)  # a rank that writes has a copy
        try:
            ring = rings.create(size, self._settings, "SGLang tokenizer")
        except (ShmTransportError, OSError) as error:
            logger.warning("shmtransport is off, tensors go SGLang's own way: %s", error)
            return
        self._leaving.note(ring.id)
        self._growths.append(GrowsAhead(ring))
        self.ring = ring

    def peers(self) -> bytes | None:
        """The ids of all ranks; None before all have joined. Takes no time from then on."""
        if self._peers is None and self.ring is not None:
            try:
                self._look_for_ranks(self.ring)
            except ShmTransportError as error:
                logger.debug("not looked for ranks: %s", error)
        return self._peers

    def _look_for_ranks(self, ring: Ring) -> None:
        there = {each.name: each.peer_id for each in ring.statistics().processes if each.alive}
        missing = self._ranks - there.keys()
        if missing:
            self._say_who_is_missing(missing)
        else:
            self._peers = peer_ids([there[name] for name in sorted(self._ranks)])
            self._say_that_it_is_on(ring)

    def _say_who_is_missing(self, missing: frozenset[str]) -> None:
        now_s = time.monotonic()
        self._announced_s = self._announced_s or now_s
        if not self._said_who and now_s > self._announced_s + JOIN_TIMEOUT_S:
            self._said_who = True
            names = ", ".join(sorted(missing))
            logger.warning("shmtransport waits, tensors go SGLang's own way: not joined yet: %s", names)

    def _say_that_it_is_on(self, ring: Ring) -> None:
        if self._said_on:
            return
        self._said_on = True
        logger.info(
            "shmtransport is on: %d ranks have joined, tensors from %d KiB up go through ring %s (%s), at most %.2f "
            "GiB; SHMTRANSPORT_ENABLE=0 turns it off",
            len(self._ranks),
            self._settings.threshold_nbytes >> 10,
            ring.id[:8],
            ring.attachment.backing.NAME,
            ring.attachment.capacity_nbytes / (1 << 30),
        )

    def is_small(self, tensor: torch.Tensor) -> bool:
        """Whether it stays in the message, where it is faster."""
        return tensor.nbytes < self._settings.threshold_nbytes

    def stage(self, tensor: torch.Tensor) -> torch.Tensor:
        """``tensor`` in the ring, by one copy; by none if it was staged before and still lives, as for n > 1 samples.
        Itself, if it is small, in the ring already, or finds no room."""
        if self.ring is None or self.is_small(tensor):
            return tensor
        version = None if tensor.is_inference() else tensor._version
        with self._lock:
            staged = self._copies.get(tensor)
        if staged is not None and staged[0] == version:
            copy: torch.Tensor = staged[1]
            return copy
        try:
            backed = rings.put(tensor, self.ring)
            has_no_room = backed is tensor and not self.ring.holds(tensor)
        except ShmTransportError as error:
            logger.debug("not staged: %s", error)
            return tensor
        with self._lock:
            if has_no_room:
                self._copies.clear()  # whoever keeps the originals shall not keep copies too
            elif backed is not tensor:
                self._copies[tensor] = (version, backed)
        for growth in self._growths:
            growth.look()
        return backed

    def share(self, tensor: torch.Tensor, peers: bytes) -> bytes | None:
        """A handle for all ranks under one ticket; None for what is not in the ring, or if a rank has gone."""
        ring = self.ring
        try:
            if ring is None or not ring.attachment.core.holds(tensor.data_ptr(), tensor.nbytes):
                return None
            sent: bytes | Sendable | None = ring.share_wire(tensor, 0, peers)
            if sent is None:
                sent = ring.share_described(tensor, tensors.describe(tensor), peers)
        except (ShmTransportError, RuntimeError) as error:  # RuntimeError: a tensor without memory of its own
            logger.debug("not shared: %s", error)
            return None
        if isinstance(sent, Inline):
            self._peers = None  # look again who is there
            return None
        return bytes(sent)

    def revoke(self, sent: list[bytes]) -> None:
        """Nobody has to open them any more. Raises nothing."""
        ring = self.ring
        if ring is not None:
            revoke_all((ring, Handle.from_bytes(handle), None) for handle in sent)


def _close(growths: list[GrowsAhead]) -> None:
    for growth in growths:
        growth.end()


class Sending:
    """One request on its way from a tokenizer: the handles in it."""

    now: Final[ContextVar["Sending | None"]] = ContextVar("shmtransport_sending", default=None)

    def __init__(self, sender: Sender) -> None:
        self._sender = sender
        self._peers = sender.peers()
        self._sent: list[bytes] = []

    @property
    def by_handle(self) -> bool:
        """Whether all ranks have joined."""
        return self._peers is not None

    def stage(self, items: list[Any]) -> None:
        """The copy of what is large in ``items``; not for an event loop."""
        for item in items:
            item.feature = self._staged(item.feature)
            item.precomputed_embeddings = self._staged(item.precomputed_embeddings)

    def _staged(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor) and value.is_cpu:
            return self._sender.stage(value)
        if isinstance(value, (list, tuple)):
            return type(value)([self._staged(each) for each in value])
        return value

    def pointer(self, tensor: torch.Tensor, precomputed_hash: int | None, original: Wrapper) -> Any:
        """What stands in the request for ``tensor``: itself if it is small, a handle, or what ``original`` makes."""
        from sglang.srt.managers.mm_utils import ShmPointerMMData

        if self._peers is not None:
            if self._sender.is_small(tensor):
                return tensor
            handle = self._sender.share(tensor, self._peers)
            if handle is not None:
                self._sent.append(handle)
                return ShmPointerMMData.by_handle(handle, tensor, precomputed_hash)
        made = original(tensor, precomputed_hash)
        if isinstance(made, ShmPointerMMData) and self._sender.ring is not None:
            made.announced = self._sender.ring.id
        return made

    def failed(self) -> None:
        """It was not sent."""
        self._sender.revoke(self._sent)

    def dispatched(self, state: Any) -> None:
        """It was sent. What ranks have not opened when its ``state`` dies, by whatever end of the request, comes back:
        of data-parallel replicas only one gets it. Without a state nobody waits for it any more."""
        if state is None:
            self.failed()
        elif self._sent:
            weakref.finalize(state, self._sender.revoke, self._sent).atexit = False


_ATTRIBUTE: Final = "_shmtransport_sender"


def _sender_of(tokenizer: Any, settings: Settings) -> Sender | None:
    """Made for the first request with tensors. None where these go SGLang's own way, which is said once."""
    if _ATTRIBUTE not in vars(tokenizer):
        from shmtransport.adapters.sglang import ranks

        why_not = ranks.why_not()
        if why_not is not None:
            logger.warning("shmtransport is off, tensors go SGLang's own way: %s", why_not)
        setattr(tokenizer, _ATTRIBUTE, None if why_not is not None else Sender(settings, ranks.names()))
    sender: Sender | None = vars(tokenizer)[_ATTRIBUTE]
    return sender


def _tensors_of(request: Any) -> Iterator[torch.Tensor]:
    for item in getattr(getattr(request, "mm_inputs", None), "mm_items", None) or ():
        for value in (item.feature, item.precomputed_embeddings):
            for each in value if isinstance(value, (list, tuple)) else (value,):
                if isinstance(each, torch.Tensor) and each.is_cpu:
                    yield each


def modules(settings: Settings) -> tuple[Module, ...]:
    """The seams in SGLang's tokenizer, and in what stands there for tensors."""

    def wrap(original: Wrapper, tensor: torch.Tensor, precomputed_hash: int | None = None) -> Any:
        sending = Sending.now.get()
        if sending is None:
            return original(tensor, precomputed_hash)
        return sending.pointer(tensor, precomputed_hash, original)

    async def send(original: Wrapper, tokenizer: Any, request: Any) -> Any:
        from sglang.srt.managers.mm_utils import _get_is_default_transport
        from sglang.srt.runtime_context import get_serving

        if (
            next(_tensors_of(request), None) is None
            or get_serving().skip_tokenizer_init
            or _get_is_default_transport()
            or (sender := _sender_of(tokenizer, settings)) is None
        ):
            return await original(tokenizer, request)
        sending = Sending(sender)
        if sending.by_handle:
            await asyncio.to_thread(sending.stage, request.mm_inputs.mm_items)
        token = Sending.now.set(sending)
        try:
            answer = await original(tokenizer, request)
        except BaseException:
            sending.failed()
            raise
        finally:
            Sending.now.reset(token)
        sending.dispatched(tokenizer.rid_to_state.get(request.rid))
        return answer

    pointers = (
        Seam("ShmPointerMMData", "__init__", ("self", "tensor", "precomputed_hash"), None),
        Seam("ShmPointerMMData", "__getstate__", ("self",), None),
        Seam("ShmPointerMMData", "__setstate__", ("self", "state"), None),
        Seam("ShmPointerMMData", "materialize", ("self",), None),
        Seam("ShmPointerMMData", "close_and_unlink", ("self",), None),
        Seam("", "_wrap_shm_or_inline", ("tensor", "precomputed_hash"), wrap, "ShmPointerMMData"),
        Seam("", "_get_is_default_transport", (), None),
        Seam("", "unwrap_shm_features", ("obj",), None),
        Seam("", "discard_shm_features", ("obj",), None),
    )
    tokenizer = Seam("TokenizerManager", "_send_one_request", ("self", "tokenized_obj"), send, "wrap_shm_features")
    return (
        Module("sglang.srt.managers.mm_utils", pointers),
        Module("sglang.srt.managers.tokenizer_manager", (tokenizer,)),
    )
