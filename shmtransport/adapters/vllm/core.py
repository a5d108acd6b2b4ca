"""In the EngineCore: joining frontends' rings, and opening handles in its input thread."""

import threading
from collections.abc import Callable
from typing import Any, Final

import torch

from shmtransport import dtypes
from shmtransport.adapters.rings import KEY, PEER, JoinedRings
from shmtransport.adapters.seams import Module, Seam
from shmtransport.adapters.settings import Settings
from shmtransport.adapters.vllm.encoding import consumer_of_new_encoders
from shmtransport.adapters.vllm.forwarding import Workers
from shmtransport.adapters.vllm.returning import ASK, JOINED, ReturnRing
from shmtransport.adapters.vllm.seams import logger
from shmtransport.errors import ClosedError, HandleError
from shmtransport.handles import Handle

JOIN: Final = "shmtransport_join"
"""The method of EngineCore that a frontend calls once; an engine without this plugin answers with a failure."""

_TORCH_DTYPES: Final = {dtype.name: dtype.torch for dtype in dtypes.TABLE if dtype.torch is not None}


class Engine:
    """The rings this process has joined, its workers, and what went wrong with the request that is being decoded.

    Stands where vLLM expects its tensor receiver; what is not ours goes to ``inner``. It never raises: an error
    here would end the engine's input thread without a word. It is kept for `take_error` instead.
    """

    def __init__(self, settings: Settings) -> None:
        self.inner: Callable[[str, tuple[int, ...], dict[str, Any]], torch.Tensor] | None = None
        self._rings = JoinedRings("EngineCore", writable=settings.writable)
        self._workers = Workers(self._rings)
        self.returning = ReturnRing(settings)
        self._error: Exception | None = None

    def join(self, executor: Any, ring_id: str, handle_version: int) -> dict[str, str]:
        """As `JoinedRings.join`, for this process and then for its workers; without these, hop 2 is inline."""
        answer = self._rings.join(ring_id, handle_version)
        if PEER in answer:
            logger.debug("joined ring %s as %s", ring_id, answer[PEER])
            self._workers.introduce(executor, ring_id)
        return answer

    def __call__(self, dtype: str, shape: tuple[int, ...], meta: dict[str, Any]) -> torch.Tensor:
        """The tensor behind ``meta``. On failure one of the same dtype and shape that takes no memory."""
        try:
            if KEY in meta:
                handle = Handle.from_bytes(meta[KEY])
                return self._workers.forwarded(self._rings.open_as(handle, dtype, tuple(shape)), handle.ring_id)
            if self.inner is None:
                raise HandleError(f"a tensor was sent by a way that is not set up here (keys {sorted(meta)})")
            return self.inner(dtype, shape, meta)
        except Exception as error:  # noqa: BLE001
            # Whatever it was: take_error hands it to the request.
            self._error = self._error or error
            return _placeholder(dtype, shape)

    def take_error(self) -> Exception | None:
        """What went wrong since the last call, which is in the request that was decoded last.

        The input thread decodes a request and prepares it before it decodes the next. Frontends send no handle
        in any other message; a forged one there is charged to the next request: no request is ever prepared
        from a placeholder.
        """
        error, self._error = self._error, None
        return error


def _placeholder(dtype: str, shape: tuple[int, ...]) -> torch.Tensor:
    element = torch.zeros((), dtype=_TORCH_DTYPES.get(dtype, torch.uint8))
    try:
        return element.expand(tuple(shape))
    except (RuntimeError, TypeError, ValueError):  # a shape that no tensor has
        return element


_ATTRIBUTE: Final = "_shmtransport_engine"


def module(settings: Settings) -> Module:
    """The seams in vllm.v1.engine.core."""
    making = threading.Lock()

    def engine_for(core: Any) -> Engine:
        with making:  # the threads for input and output begin together
            engine: Engine | None = vars(core).get(_ATTRIBUTE)
            if engine is None:
                engine = Engine(settings)
                setattr(core, _ATTRIBUTE, engine)
            return engine

    def engine_of(core: Any) -> Engine:
        engine: Engine | None = vars(core).get(_ATTRIBUTE)
        if engine is None:
            raise ClosedError("this engine does not read from shared memory: its input thread was started before")
        return engine

    def process_input_sockets(original: Callable[..., Any], core: Any, *args: Any, **kwargs: Any) -> Any:
        """Its decoders take the receiver that stands there when it begins."""
        engine = engine_for(core)
        engine.inner = core.tensor_ipc_receiver
        core.tensor_ipc_receiver = engine
        return original(core, *args, **kwargs)

    def process_output_sockets(original: Callable[..., Any], core: Any, *args: Any, **kwargs: Any) -> Any:
        """Its encoder is made in this thread."""
        returning = engine_for(core).returning
        returning.watch(core.output_queue)
        with consumer_of_new_encoders(returning.consumer):
            return original(core, *args, **kwargs)

    def preprocess_add_request(original: Callable[..., Any], core: Any, request: Any) -> Any:
        engine: Engine | None = vars(core).get(_ATTRIBUTE)
        error = engine.take_error() if engine is not None else None
        if error is not None:
            raise error
        return original(core, request)

    def join(core: Any, ring_id: str, handle_version: int) -> dict[str, str]:
        return engine_of(core).join(core.model_executor, ring_id, handle_version)

    def ask(core: Any, handle_version: int) -> dict[str, str]:
        return engine_of(core).returning.ask(handle_version)

    def joined(core: Any, client_index: int, peer_id: str) -> None:
        engine_of(core).returning.joined(client_index, peer_id)

    return Module(
        "vllm.v1.engine.core",
        (
            Seam("EngineCoreProc", "process_input_sockets", ("self",), process_input_sockets, "tensor_ipc_receiver"),
            Seam("EngineCoreProc", "process_output_sockets", ("self",), process_output_sockets, "output_queue"),
            Seam("EngineCore", "preprocess_add_request", ("self", "request"), preprocess_add_request),
        ),
        (("EngineCore", JOIN, join), ("EngineCore", ASK, ask), ("EngineCore", JOINED, joined)),
    )
