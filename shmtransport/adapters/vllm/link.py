"""One engine client and its engines: joining, sending, taking back.

Engines are asked to join outside the path of requests. Until an engine has answered, and for ever if it refuses,
its tensors go inline, which is vLLM's own way.
"""

import asyncio
import sys
import threading
import uuid
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any, Final

from shmtransport import handles
from shmtransport.adapters.rings import ERROR, PEER
from shmtransport.adapters.vllm.core import JOIN
from shmtransport.adapters.vllm.returning import Returns, may_return_tensors
from shmtransport.adapters.vllm.seams import logger
from shmtransport.adapters.vllm.sending import Consumer, SharedRing
from shmtransport.endpoint import revoke_all
from shmtransport.errors import ShmTransportError
from shmtransport.handles import Handle
from shmtransport.ring import Ring

JOIN_TIMEOUT_S: Final = 30.0
"""How long an asynchronous client waits for an engine's answer; the calls of a synchronous one cost no waiting."""

CLIENT_MODULE: Final = "vllm.v1.engine.core_client"


def may_send_tensors(model: Any) -> bool:
    """Whether requests to a model, by its configuration in vLLM, have tensors."""
    return getattr(model, "multimodal_config", None) is not None or bool(getattr(model, "enable_prompt_embeds", False))


def may_exchange_tensors(model: Any) -> bool:
    """Whether requests to it or its outputs have."""
    return may_send_tensors(model) or getattr(model, "runner_type", None) == "pooling"


class Link:
    """One engine client: its consumer, and which of its engines have joined."""

    def __init__(self, client: Any, shared: SharedRing) -> None:
        self._client = weakref.ref(client)
        self._shared = shared
        self._peers: dict[bytes, str | None] = {}  # None: asked, or refused
        self._tasks: set[asyncio.Task[None]] = set()
        self._opening = threading.Lock()
        self._opened = False
        model = client.vllm_config.model_config
        self._sends = may_send_tensors(model)
        self._cache_gib = float(getattr(model.multimodal_config, "mm_processor_cache_gb", 0) or 0)
        self._frontends = int(getattr(client, "client_count", 1))
        self.consumer = Consumer(shared.settings.threshold_nbytes, client.encoder.oob_tensor_consumer)
        client.encoder.oob_tensor_consumer = self.consumer
        self._returns = self._way_back(client) if shared.settings.returns else None
        self.close = weakref.finalize(client, _close, self.consumer, shared, self._returns)
        """Idempotent; also when the client is collected, and at exit."""

    def _way_back(self, client: Any) -> Returns | None:
        """None where something else provides the tensors of outputs."""
        if client.decoder.oob_tensor_provider is not None:
            return None
        index = getattr(client, "client_index", None)  # synchronous clients have none: they are their engine's only one
        returns = Returns(index or 0, self._call_sync if index is None else self._call_async, self._shared.leaving)
        client.decoder.oob_tensor_provider = returns.rings.provide
        return returns

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
                    ring = self._shared.acquire(self._cache_gib, self._frontends)
                except (ShmTransportError, OSError) as error:
                    logger.warning("shmtransport is off, tensors go vLLM's own way: %s", error)
                    return None
                self.consumer.ring = ring
                if not self.close.alive:  # the client was shut down meanwhile
                    _close(self.consumer, self._shared, self._returns)
                    return None
                self._say_that_it_is_on(ring)
            return self.consumer.ring

    def _say_that_it_is_on(self, ring: Ring) -> None:
        logger.info(
            "shmtransport is on: tensors from %d KiB up go through ring %s (%s), "
            "at most %.2f GiB; SHMTRANSPORT_ENABLE=0 turns it off",
            self._shared.settings.threshold_nbytes >> 10,
            ring.id[:8],
            ring.attachment.backing.NAME,
            ring.attachment.capacity_nbytes / (1 << 30),
        )

    def joined(self, engine: bytes, answer: "Future[Any] | asyncio.Future[Any]") -> None:
        """What an engine answered; one warning if it refused."""
        error: object = "the call was cancelled" if answer.cancelled() else answer.exception()
        reply = answer.result() if error is None else None
        if isinstance(reply, dict) and isinstance(reply.get(PEER), str):
            self._peers[engine] = reply[PEER]
            return
        logger.warning(
            "shmtransport is off for engine %d, its tensors go vLLM's own way: it did not join: %s",
            int.from_bytes(engine, "little"),
            (reply.get(ERROR) if isinstance(reply, dict) else f"it answered {reply!r}")
            if error is None
            else repr(error),
        )

    def join_sync(self) -> None:
        """Asks the engine of a synchronous client. The answer comes to the thread that reads its outputs, so that
        nobody waits for it, which `call_utility` would."""
        client = self._client()
        ring = self.open_ring() if self._sends else None
        if client is None or ring is None:
            return
        self._peers[client.core_engine] = None
        answer = self._call_sync(client.core_engine, JOIN, ring.id, handles.VERSION)
        answer.add_done_callback(partial(self.joined, client.core_engine))

    def _call_sync(self, engine: bytes, method: str, *args: Any) -> "Future[Any]":
        """As `call_utility` of a synchronous client, which would wait. From its own thread only."""
        client = self._client()
        answer: Future[Any] = Future()
        if client is None or client.core_engine != engine:
            answer.cancel()
            return answer
        call_id = uuid.uuid1().int >> 64
        client.utility_results[call_id] = answer
        call = sys.modules[CLIENT_MODULE].EngineCoreRequestType.UTILITY
        client._send_input(call, (0, call_id, method, args))
        return answer

    def _call_async(self, engine: bytes, method: str, *args: Any) -> "asyncio.Future[Any]":
        """As `_call_utility_async`, from the event loop."""

        async def call() -> Any:
            client = self._client()
            return None if client is None else await client._call_utility_async(method, *args, engine=engine)

        task = asyncio.get_running_loop().create_task(call())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def join_async(self, engine: bytes) -> None:
        """Asks an engine of an asynchronous client, from its event loop, once."""
        if self._sends and engine not in self._peers:
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

    def send(self, engine: bytes, request: Any, call: Callable[[], Any]) -> Any:
        """Runs ``call``, which encodes ``request`` for ``engine`` and sends it. Fails it, its handles come back."""
        if self._returns is not None and may_return_tensors(request):
            self._returns.look(engine)
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
        if ring is not None:
            revoke_all((ring, handle, None) for handle in sent)


def _close(consumer: Consumer, shared: SharedRing, returns: Returns | None) -> None:
    ring, consumer.ring = consumer.ring, None
    if ring is not None:
        shared.release(ring)
    if returns is not None:
        returns.rings.close()
