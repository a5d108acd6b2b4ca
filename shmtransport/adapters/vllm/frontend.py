"""In the frontend: one ring a process, and for each of vLLM's engine clients what its engines may be sent.

A client's engines are asked to join outside the path of requests. Until an engine has answered, and for ever if
it refuses, its tensors go inline, which is vLLM's own way.
"""

import asyncio
import os
import sys
import threading
import uuid
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

import torch

from shmtransport import handles
from shmtransport.adapters.vllm import staging
from shmtransport.adapters.vllm.core import JOIN, KEY
from shmtransport.adapters.vllm.growth import GrowsAhead
from shmtransport.adapters.vllm.seams import Module, Seam, logger
from shmtransport.adapters.vllm.settings import Settings
from shmtransport.errors import ShmTransportError
from shmtransport.handles import Handle
from shmtransport.layout import InlineReason
from shmtransport.ring import Ring

JOIN_TIMEOUT_S: Final = 30.0
"""How long an asynchronous client waits for an engine's answer; the calls of a synchronous one cost no waiting."""

_CLIENT_MODULE: Final = "vllm.v1.engine.core_client"
_ATTRIBUTE: Final = "_shmtransport_link"


class SharedRing:
    """This process's ring: made for its first client, closed after its last. Thread-safe; forgotten by a fork."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
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
                ring = self.ring or self._create(self.settings.ring_capacity(cache_gib, frontends))
            except BaseException:
                self._users -= 1
                raise
            return ring

    def _create(self, capacity_nbytes: int) -> Ring:
        segment_nbytes = self.settings.segment_nbytes
        ring = Ring.create(capacity_nbytes, segment=segment_nbytes, on_full="inline", name="vLLM frontend")
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


class Consumer:
    """Stands where vLLM's encoder offers tensors: answers a handle for what is in the ring and may be sent.

    Writes nothing and never raises: what is not ours, not ring-backed or not for an engine that has joined goes
    to ``inner``, or the encoder's own way. Used by one thread at a time, as the encoder is.
    """

    def __init__(self, threshold_nbytes: int, inner: Any) -> None:
        self.inner = inner
        self.ring: Ring | None = None
        self._threshold_nbytes = threshold_nbytes
        self._peer_id: str | None = None
        self._sent: list[Handle] | None = None

    def begin(self, peer_id: str | None) -> list[Handle]:
        """From here on tensors are for ``peer_id``; None: an engine that has not joined. Answers what is sent."""
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
        if not ring.holds(tensor):
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


class Link:
    """One engine client: its consumer, and which of its engines have joined."""

    def __init__(self, client: Any, shared: SharedRing) -> None:
        self._client = weakref.ref(client)
        self._shared = shared
        self._peers: dict[bytes, str | None] = {}  # None: asked, or refused
        self._tasks: set[asyncio.Task[None]] = set()
        self._opening = threading.Lock()
        self._opened = False
        config = client.vllm_config
        self._cache_gib = float(getattr(config.model_config.multimodal_config, "mm_processor_cache_gb", 0) or 0)
        self._frontends = int(getattr(client, "client_count", 1))
        self.consumer = Consumer(shared.settings.threshold_nbytes, client.encoder.oob_tensor_consumer)
        client.encoder.oob_tensor_consumer = self.consumer
        self.close = weakref.finalize(client, _close, self.consumer, shared)
        """Idempotent; also when the client is collected, and at exit."""

    @property
    def peers(self) -> dict[bytes, str | None]:
        """The peer id of each engine that was asked to join; None until it answers, and if it refused."""
        return dict(self._peers)

    def open_ring(self) -> Ring | None:
        """The ring, or None, with one warning, if there cannot be one. Any thread."""
        with self._opening:
            if not self._opened:
                self._opened = True
                try:
                    self.consumer.ring = self._shared.acquire(self._cache_gib, self._frontends)
                except (ShmTransportError, OSError) as error:
                    logger.warning("shmtransport is off, tensors go vLLM's own way: %s", error)
                    return None
                if not self.close.alive:  # the client was shut down meanwhile
                    _close(self.consumer, self._shared)
                    return None
                self._say_that_it_is_on(self.consumer.ring)
            return self.consumer.ring

    def _say_that_it_is_on(self, ring: Ring) -> None:
        logger.info(
            "shmtransport is on (frontend to EngineCore): tensors from %d KiB up go through ring %s in /dev/shm, "
            "at most %.2f GiB; SHMTRANSPORT_ENABLE=0 turns it off",
            self._shared.settings.threshold_nbytes >> 10,
            ring.id[:8],
            ring.attachment.capacity_nbytes / (1 << 30),
        )

    def joined(self, engine: bytes, answer: "Future[Any] | asyncio.Future[Any]") -> None:
        """What an engine answered; one warning if it refused."""
        error: object = "the call was cancelled" if answer.cancelled() else answer.exception()
        reply = answer.result() if error is None else None
        if isinstance(reply, dict) and isinstance(reply.get("peer_id"), str):
            self._peers[engine] = reply["peer_id"]
            return
        logger.warning(
            "shmtransport is off for engine %d, its tensors go vLLM's own way: it did not join: %s",
            int.from_bytes(engine, "little"),
            (reply.get("error") if isinstance(reply, dict) else f"it answered {reply!r}")
            if error is None
            else repr(error),
        )

    def join_sync(self) -> None:
        """Asks the engine of a synchronous client. The answer comes to the thread that reads its outputs, so that
        nobody waits for it, which `call_utility` would."""
        client = self._client()
        ring = self.open_ring()
        if client is None or ring is None:
            return
        engine, call_id = client.core_engine, uuid.uuid1().int >> 64
        answer: Future[Any] = Future()
        answer.add_done_callback(partial(self.joined, engine))
        self._peers[engine] = None
        client.utility_results[call_id] = answer
        call = sys.modules[_CLIENT_MODULE].EngineCoreRequestType.UTILITY
        client._send_input(call, (0, call_id, JOIN, (ring.id, handles.VERSION)))

    def join_async(self, engine: bytes) -> None:
        """Asks an engine of an asynchronous client, from its event loop, once."""
        if engine not in self._peers:
            self._peers[engine] = None
            task = asyncio.get_running_loop().create_task(self._join_async(engine))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _join_async(self, engine: bytes) -> None:
        ring = await asyncio.to_thread(self.open_ring)
        client = self._client()
        if client is None or ring is None:
            return
        call = client._call_utility_async(JOIN, ring.id, handles.VERSION, engine=engine)
        del client
        answer = asyncio.ensure_future(asyncio.wait_for(call, JOIN_TIMEOUT_S))
        await asyncio.wait([answer])
        self.joined(engine, answer)

    def send(self, engine: bytes, call: Callable[[], Any]) -> Any:
        """Runs ``call``, which encodes a request for ``engine`` and sends it. Fails it, its handles come back."""
        sent = self.consumer.begin(self._peers.get(engine))
        try:
            result = call()
        except BaseException:
            self._revoke(sent)
            raise
        finally:
            self.consumer.end()
        if sent and isinstance(result, asyncio.Future):
            result.add_done_callback(partial(self._settle, sent))
        return result

    def _settle(self, sent: list[Handle], result: "asyncio.Future[Any]") -> None:
        if result.cancelled() or result.exception() is not None:
            self._revoke(sent)

    def _revoke(self, sent: list[Handle]) -> None:
        ring = self.consumer.ring
        if ring is None:
            return
        try:
            for handle in sent:
                ring.revoke(handle)
        except ShmTransportError as error:
            logger.debug("handles not taken back: %s", error)


def _close(consumer: Consumer, shared: SharedRing) -> None:
    ring, consumer.ring = consumer.ring, None
    if ring is not None:
        shared.release(ring)


def link_of(client: Any) -> Link | None:
    """The link of an engine client, if it has one."""
    link: Link | None = vars(client).get(_ATTRIBUTE)
    return link


def modules(settings: Settings) -> tuple[Module, Module]:
    """The seams in vllm.v1.engine.core_client and vllm.renderers.base."""
    shared = SharedRing(settings)

    def connect(client: Any) -> Link | None:
        """For a model that takes more than text. Afterwards the engines run: none of them inherits the ring."""
        if getattr(client.vllm_config.model_config, "multimodal_config", None) is None:
            return None
        link = Link(client, shared)
        setattr(client, _ATTRIBUTE, link)
        return link

    def init_sync(original: Callable[..., Any], client: Any, *args: Any, **kwargs: Any) -> None:
        original(client, *args, **kwargs)
        with _harmless("connect a client"):
            link = connect(client)
            if link is not None:
                link.join_sync()

    def init_async(original: Callable[..., Any], client: Any, *args: Any, **kwargs: Any) -> None:
        original(client, *args, **kwargs)
        with _harmless("connect a client"):
            link = connect(client)
            if link is not None and _in_event_loop():
                for engine in client.core_engines:
                    link.join_async(engine)

    def send_sync(original: Callable[..., Any], client: Any, request_type: Any, request: Any) -> Any:
        link = link_of(client) if request_type.name == "ADD" else None
        call = partial(original, client, request_type, request)
        return call() if link is None else link.send(client.core_engine, call)

    def send_async(
        original: Callable[..., Any], client: Any, request_type: Any, request: Any, engine: bytes | None = None
    ) -> Any:
        link = link_of(client) if request_type.name == "ADD" else None
        call = partial(original, client, request_type, request, engine)
        if link is None:
            return call()
        target: bytes = client.core_engine if engine is None else engine
        link.join_async(target)  # a client made outside of an event loop, or an engine that came later
        return link.send(target, call)

    def shutdown(original: Callable[..., Any], client: Any, *args: Any, **kwargs: Any) -> None:
        link = link_of(client)
        try:
            original(client, *args, **kwargs)
        finally:
            if link is not None:
                link.close()

    def process_multimodal(original: Callable[..., Any], renderer: Any, *args: Any, **kwargs: Any) -> Any:
        processed = original(renderer, *args, **kwargs)
        if not kwargs.get("skip_mm_cache"):  # which says that only tokens are asked for
            with _harmless("stage an input"):
                shared.stage(processed["mm_kwargs"])
        return processed

    client_module = Module(
        _CLIENT_MODULE,
        (
            Seam("SyncMPClient", "__init__", ("self",), init_sync),
            Seam("AsyncMPClient", "__init__", ("self",), init_async),
            Seam("SyncMPClient", "_send_input", ("self", "request_type", "request"), send_sync, "encode"),
            Seam("AsyncMPClient", "_send_input", ("self", "request_type", "request", "engine"), send_async, "encode"),
            Seam("SyncMPClient", "call_utility", ("self", "method"), None, "EngineCoreRequestType"),
            Seam("AsyncMPClient", "_call_utility_async", ("self", "method", "args", "engine"), None),
            Seam("MPClient", "shutdown", ("self",), shutdown),
            Seam("MsgpackEncoder", "_encode_tensor", ("self", "obj"), None, "oob_tensor_consumer"),
            Seam("MsgpackDecoder", "_decode_tensor", ("self", "arr"), None, "oob_tensor_provider"),
        ),
    )
    renderer_module = Module(
        "vllm.renderers.base", (Seam("BaseRenderer", "_process_multimodal", ("self",), process_multimodal),)
    )
    return client_module, renderer_module


@contextmanager
def _harmless(what: str) -> Iterator[None]:
    """No bug of this plugin costs a request: it is logged, and vLLM goes its own way."""
    try:
        yield
    except Exception:  # noqa: BLE001
        logger.exception("shmtransport could not %s, which goes vLLM's own way; please report it", what)


def _in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
