"""In the EngineCore: joining frontends' rings, and opening handles in its input thread."""

import threading
from collections.abc import Callable
from typing import Any, Final

import torch

from shmtransport import dtypes, handles
from shmtransport.adapters.vllm.seams import Module, Seam, logger
from shmtransport.adapters.vllm.settings import Settings
from shmtransport.errors import ClosedError, HandleError, ShmTransportError
from shmtransport.handles import Handle
from shmtransport.reader import Reader

KEY: Final = "shmt"
"""The one key of what stands in a message in place of a tensor; its value is ``bytes(handle)``."""

JOIN: Final = "shmtransport_join"
"""The method of EngineCore that a frontend calls once; an engine without this plugin answers with a failure."""

_TORCH_DTYPES: Final = {dtype.name: dtype.torch for dtype in dtypes.TABLE if dtype.torch is not None}


class Engine:
    """The rings this process has joined, and what went wrong with the request that is being decoded.

    Stands where vLLM expects its tensor receiver; what is not ours goes to ``inner``. It never raises: an error
    here would end the engine's input thread without a word. It is kept for `take_error` instead.
    """

    def __init__(self, settings: Settings) -> None:
        self.inner: Callable[[str, tuple[int, ...], dict[str, Any]], torch.Tensor] | None = None
        self._settings = settings
        self._readers: dict[bytes, Reader] = {}
        self._lock = threading.Lock()
        self._error: Exception | None = None

    def join(self, ring_id: str, handle_version: int) -> dict[str, str]:
        """``{"peer_id": …}``, or ``{"error": …}`` if this process cannot read that ring; never raises."""
        if handle_version != handles.VERSION:
            return {"error": f"handles of version {handle_version} and {handles.VERSION}: install one shmtransport"}
        try:
            reader = Reader.join(ring_id, name="EngineCore", writable=self._settings.writable)
        except (ShmTransportError, OSError) as error:
            return {"error": str(error)}
        with self._lock:
            self._forget_the_dead()
            self._readers[bytes.fromhex(ring_id)] = reader
        return {"peer_id": reader.peer_id}

    def _forget_the_dead(self) -> None:
        """Leaves rings whose writer is gone, so that their memory goes with the last tensor over it."""
        for ring_id, reader in list(self._readers.items()):
            if not reader.statistics().writer.alive:
                del self._readers[ring_id]
                reader.close()

    def __call__(self, dtype: str, shape: tuple[int, ...], meta: dict[str, Any]) -> torch.Tensor:
        """The tensor behind ``meta``. On failure one of the same dtype and shape that takes no memory."""
        try:
            if KEY in meta:
                return self._open(meta[KEY], dtype, tuple(shape))
            if self.inner is None:
                raise HandleError(f"a tensor was sent by a way that is not set up here (keys {sorted(meta)})")
            return self.inner(dtype, shape, meta)
        except Exception as error:  # noqa: BLE001
            # Whatever it was: take_error hands it to the request.
            self._error = self._error or error
            return _placeholder(dtype, shape)

    def _open(self, wire: bytes, dtype: str, shape: tuple[int, ...]) -> torch.Tensor:
        handle = Handle.from_bytes(wire)
        reader = self._readers.get(handle.ring_id)
        if reader is None:
            raise HandleError(f"a handle of ring {handle.ring_id.hex()}, which this engine has not joined")
        if (dtypes.TABLE[handle.dtype].name, handle.shape) != (dtype, shape):
            reader.refuse(handle)
            raise HandleError(
                f"expected {dtype} {shape}, the handle is of {dtypes.TABLE[handle.dtype].name} {handle.shape}"
            )
        tensor = reader.open(handle)
        if not isinstance(tensor, torch.Tensor):
            raise HandleError("expected a handle of a torch.Tensor, got one of a numpy array")
        return tensor

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

    def engine_of(core: Any) -> Engine:
        engine: Engine | None = vars(core).get(_ATTRIBUTE)
        if engine is None:
            raise ClosedError("this engine does not read from shared memory: its input thread was started before")
        return engine

    def process_input_sockets(original: Callable[..., Any], core: Any, *args: Any, **kwargs: Any) -> Any:
        """Its decoders take the receiver that stands there when it begins."""
        engine = Engine(settings)
        engine.inner = core.tensor_ipc_receiver
        core.tensor_ipc_receiver = engine
        setattr(core, _ATTRIBUTE, engine)
        return original(core, *args, **kwargs)

    def preprocess_add_request(original: Callable[..., Any], core: Any, request: Any) -> Any:
        engine: Engine | None = vars(core).get(_ATTRIBUTE)
        error = engine.take_error() if engine is not None else None
        if error is not None:
            raise error
        return original(core, request)

    def join(core: Any, ring_id: str, handle_version: int) -> dict[str, str]:
        answer = engine_of(core).join(ring_id, handle_version)
        if "error" not in answer:
            logger.debug("joined ring %s as %s", ring_id, answer["peer_id"])
        return answer

    return Module(
        "vllm.v1.engine.core",
        (
            Seam("EngineCoreProc", "process_input_sockets", ("self",), process_input_sockets, "tensor_ipc_receiver"),
            Seam("EngineCore", "preprocess_add_request", ("self", "request"), preprocess_add_request),
        ),
        (("EngineCore", JOIN, join),),
    )
