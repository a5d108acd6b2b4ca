"""The seams of a frontend: its engine clients, and its renderer."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

from shmtransport.adapters.seams import Module, Seam
from shmtransport.adapters.settings import Settings
from shmtransport.adapters.vllm.link import CLIENT_MODULE, Link, may_exchange_tensors
from shmtransport.adapters.vllm.seams import logger
from shmtransport.adapters.vllm.sending import SharedRing

EMBEDS: Final = "prompt_embeds"
"""vLLM's name for the embeddings that a request has in place of tokens."""

_ATTRIBUTE: Final = "_shmtransport_link"


def link_of(client: Any) -> Link | None:
    """The link of an engine client, if it has one."""
    link: Link | None = vars(client).get(_ATTRIBUTE)
    return link


def modules(settings: Settings) -> tuple[Module, Module]:
    """The seams in vllm.v1.engine.core_client and vllm.renderers.base."""
    shared = SharedRing(settings)

    def connect(client: Any) -> Link | None:
        """For a model whose requests or outputs have tensors. Afterwards the engines run: none inherits the ring."""
        if not may_exchange_tensors(client.vllm_config.model_config):
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
        return call() if link is None else link.send(client.core_engine, request, call)

    def send_async(
        original: Callable[..., Any], client: Any, request_type: Any, request: Any, engine: bytes | None = None
    ) -> Any:
        link = link_of(client) if request_type.name == "ADD" else None
        call = partial(original, client, request_type, request, engine)
        if link is None:
            return call()
        target: bytes = client.core_engine if engine is None else engine
        with _harmless("join an engine"):
            link.join_async(target)  # a client made outside of an event loop, or an engine that came later
        return link.send(target, request, call)

    def shutdown(original: Callable[..., Any], client: Any, *args: Any, **kwargs: Any) -> None:
        link = link_of(client)
        try:
            original(client, *args, **kwargs)
        finally:
            if link is not None:
                with _harmless("leave"):
                    link.close()
                    shared.leaving.sweep()

    def process_multimodal(original: Callable[..., Any], renderer: Any, *args: Any, **kwargs: Any) -> Any:
        processed = original(renderer, *args, **kwargs)
        if not kwargs.get("skip_mm_cache"):  # which says that only tokens are asked for
            with _harmless("stage an input"):
                shared.stage(processed["mm_kwargs"])
        return processed

    def process_singleton(original: Callable[..., Any], renderer: Any, *args: Any, **kwargs: Any) -> Any:
        return staged_embeds(original(renderer, *args, **kwargs))

    async def process_later(original: Callable[..., Any], renderer: Any, *args: Any, **kwargs: Any) -> Any:
        processed = await original(renderer, *args, **kwargs)
        if processed.get(EMBEDS) is not None:
            processed = await asyncio.to_thread(staged_embeds, processed)
        return processed

    def staged_embeds(processed: Any) -> Any:
        if processed.get(EMBEDS) is not None:
            with _harmless("stage prompt embeddings"):
                processed[EMBEDS] = shared.put(processed[EMBEDS])
        return processed

    client_module = Module(
        CLIENT_MODULE,
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
        "vllm.renderers.base",
        (
            Seam("BaseRenderer", "_process_multimodal", ("self",), process_multimodal),
            Seam("BaseRenderer", "_process_singleton", ("self", "prompt"), process_singleton, optional=True),
            Seam("BaseRenderer", "_process_singleton_async", ("self", "prompt"), process_later, optional=True),
        ),
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
