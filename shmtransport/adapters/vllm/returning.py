"""The way back: big tensors in an EngineCore's outputs (embeddings, prompt logprobs) by handle.

The EngineCore has a ring of its own for them, made when a frontend first sends a request that may return such
tensors. The frontend joins it, and says so with one of its next requests; until then they come inline. None of
this is waited for.

    frontend                          EngineCore
    Returns.look    -- ask -->        ReturnRing.ask      (makes the ring, in a thread)
                    <-- ring id --
    joins           -- joined -->     ReturnRing.joined
                    <-- handles --    in outputs for this frontend
"""

import threading
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from shmtransport import handles
from shmtransport.adapters.leaving import Leaving
from shmtransport.adapters.rings import ERROR, PEER, JoinedRings
from shmtransport.adapters.settings import Settings
from shmtransport.adapters.vllm import metrics
from shmtransport.adapters.vllm.seams import logger
from shmtransport.adapters.vllm.sending import Consumer
from shmtransport.errors import ShmTransportError
from shmtransport.ring import Ring

ASK: Final = "shmtransport_ask_for_return_ring"
JOINED: Final = "shmtransport_joined_return_ring"
"""Methods of EngineCore that a frontend calls."""

_RING: Final = "ring_id"


class ReturnRing:
    """In an EngineCore: its ring, and which frontends have joined it. Thread-safe."""

    def __init__(self, settings: Settings) -> None:
        self.consumer = Consumer(settings.threshold_nbytes, None, writes=True)
        """For the encoder of outputs."""
        self._settings = settings
        self._peers: dict[int, str] = {}
        self._error = ""
        self._maker: threading.Thread | None = None
        self._lock = threading.Lock()

    def ask(self, handle_version: int) -> dict[str, str]:
        """``{"ring_id": …}``; ``{"error": …}`` if there will be none; ``{}`` while it is made. Returns at once."""
        if not self._settings.returns:
            return {ERROR: "SHMTRANSPORT_RETURN=0"}
        if handle_version != handles.VERSION:
            return {ERROR: f"handles of version {handle_version} and {handles.VERSION}: install one shmtransport"}
        with self._lock:
            if self._maker is None:
                self._maker = threading.Thread(target=self._make, name="shmtransport-return-ring", daemon=True)
                self._maker.start()
        ring = self.consumer.ring
        if ring is not None:
            return {_RING: ring.id}
        return {ERROR: self._error} if self._error else {}

    def _make(self) -> None:
        try:
            size = self._settings.return_ring()
            self.consumer.ring = Ring.create(
                size.capacity_nbytes,
                segment=size.segment_nbytes,
                backing=size.backing,
                on_full="inline",
                name="EngineCore outputs",
            )
        except (ShmTransportError, OSError) as error:
            self._error = str(error)

    def joined(self, client_index: int, peer_id: str) -> None:
        """From here on this frontend gets handles."""
        self._peers[client_index] = peer_id

    def watch(self, queue: Any) -> None:
        """Has the consumer know for whom the next message is: what is taken out of ``queue`` is encoded next."""
        get = queue.get

        def noted(*args: Any, **kwargs: Any) -> Any:
            item = get(*args, **kwargs)
            self.consumer.begin(self._peers.get(item[0]) if isinstance(item, tuple) else None)
            return item

        queue.get = noted


class Returns:
    """In a frontend: which engines' return rings it has joined.

    ``call`` sends a call to an engine and answers its future. Joined rings are mapped writable: what they hold
    becomes the user's, who may change it, and is read by nobody else.
    """

    def __init__(self, client_index: int, call: Callable[..., Any], leaving: Leaving) -> None:
        self._leaving = leaving
        self.rings = JoinedRings("vLLM frontend", writable=True)
        self._client_index = client_index
        self._call = call
        self._peers: dict[bytes, str | None] = {}  # None: nothing to be said, now or ever

    def look(self, engine: bytes) -> None:
        """Before a request that may return tensors: takes the next step, if there is one. Never waits."""
        if engine not in self._peers:
            self._peers[engine] = None
            self._call(engine, ASK, handles.VERSION).add_done_callback(partial(self._answered, engine))
            return
        peer_id = self._peers[engine]
        if peer_id is not None:
            self._peers[engine] = None
            self._call(engine, JOINED, self._client_index, peer_id).add_done_callback(_forget)

    def _answered(self, engine: bytes, answer: Any) -> None:
        reply = None if answer.cancelled() or answer.exception() is not None else answer.result()
        if reply == {}:
            self._peers.pop(engine, None)  # it is being made: the next request asks again
        elif isinstance(reply, dict) and isinstance(reply.get(_RING), str):
            # Not here: this is an event loop, or the thread that reads outputs.
            threading.Thread(target=self._join, args=(engine, reply[_RING]), daemon=True).start()
        else:
            logger.debug("outputs of engine %d come vLLM's own way: %s", int.from_bytes(engine, "little"), reply)

    def _join(self, engine: bytes, ring_id: str) -> None:
        answer = self.rings.join(ring_id, handles.VERSION)
        if PEER in answer:
            self._leaving.note(ring_id)
            metrics.show(ring_id)
            self._peers[engine] = answer[PEER]
        else:
            logger.debug("a return ring was not joined: %s", answer[ERROR])


def _forget(answer: Any) -> None:
    if not answer.cancelled():
        answer.exception()  # looked at, so that asyncio does not report it


def may_return_tensors(request: Any) -> bool:
    """Whether a request of vLLM asks for embeddings or prompt logprobs."""
    sampling = getattr(request, "sampling_params", None)
    return (
        getattr(request, "pooling_params", None) is not None or getattr(sampling, "prompt_logprobs", None) is not None
    )
