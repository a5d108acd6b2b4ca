"""From the EngineCore to its workers: tensors that pickle as handles, inside one kind of message only.

The EngineCore holds what it has decoded as a `ForwardedTensor`. When vLLM pickles one into the queue that all
local workers read, and all of them have joined its ring, the pickle holds a handle, under one ticket for all;
the EngineCore reads no byte. Anywhere else (another queue, a reader on another host, deepcopy, Ray) it pickles
as an ordinary tensor.
"""

import sys
import threading
from collections.abc import Callable
from typing import Any, Final

import torch

from shmtransport import handles, tensors
from shmtransport.adapters.rings import ERROR, PEER, JoinedRings
from shmtransport.adapters.seams import Module, Seam
from shmtransport.adapters.vllm import worker
from shmtransport.adapters.vllm.seams import logger
from shmtransport.endpoint import peer_ids, revoke_all
from shmtransport.errors import ShmTransportError
from shmtransport.handles import Handle
from shmtransport.reader import Reader

_MODULE: Final = "vllm.distributed.device_communicators.shm_broadcast"
_ATTRIBUTE: Final = "_shmtransport_workers"


class Workers:
    """The workers of one EngineCore, and which rings all of them have joined."""

    def __init__(self, rings: JoinedRings) -> None:
        self._rings = rings
        self._peers: dict[bytes, list[str]] = {}

    def introduce(self, executor: Any, ring_id: str) -> None:
        """Has all workers join ``ring_id``, one warning if one cannot. Takes milliseconds, outside of requests.

        Nothing to do where no queue leads to workers (one process, Ray) or where some run on another host.
        """
        queue = getattr(executor, "rpc_broadcast_mq", None)
        if queue is None or queue.n_remote_reader != 0:
            return
        try:
            # No timeout: answers that come after it would be taken for those of the next call.
            answers = executor.collective_rpc(worker.join_ring, args=(ring_id, handles.VERSION))
            errors = [answer[ERROR] for answer in answers if ERROR in answer]
            peers = [answer[PEER] for answer in answers if PEER in answer]
        except Exception as error:  # noqa: BLE001
            errors, peers = [repr(error)], []  # a worker without this plugin
        if errors or len(peers) != queue.n_local_reader:
            logger.warning(
                "shmtransport is off between EngineCore and workers, tensors go vLLM's own way: a worker did not "
                "join: %s",
                "; ".join(errors) or f"{len(peers)} of {queue.n_local_reader} answered",
            )
            return
        self._peers[bytes.fromhex(ring_id)] = peers
        setattr(queue, _ATTRIBUTE, self)

    def forwarded(self, tensor: torch.Tensor, ring_id: bytes) -> torch.Tensor:
        """``tensor`` as one that is forwarded by handle, if the workers have joined its ring."""
        peers = self._peers.get(ring_id)
        if peers is None:
            return tensor
        made = tensor.as_subclass(ForwardedTensor)
        made.home, made.peers = self._rings.reader(ring_id), peer_ids(peers)
        return made


class Broadcast:
    """One message to all workers while it is pickled: the handles in it. One a thread at a time."""

    _now = threading.local()

    def __init__(self, workers: Workers | None) -> None:
        self._by_handle = workers is not None
        self._sent: list[tuple[Reader, Handle]] = []

    @classmethod
    def now(cls) -> "Broadcast | None":
        """The message that this thread is pickling."""
        message: Broadcast | None = getattr(cls._now, "message", None)
        return message

    def run(self, send: Callable[[], Any]) -> Any:
        """Calls ``send``. Fails it, the handles in the message come back."""
        Broadcast._now.message = self
        try:
            return send()
        except BaseException:
            revoke_all((reader, handle, None) for reader, handle in self._sent)
            raise
        finally:
            Broadcast._now.message = None

    def share(self, tensor: "ForwardedTensor", plain: torch.Tensor) -> Handle | None:
        """A handle for all workers, or None: send the bytes."""
        if not self._by_handle:
            return None
        try:
            sent = tensor.home.share_described(plain, tensors.describe(plain), tensor.peers)
        except ShmTransportError as error:
            logger.debug("inline, because forwarding failed: %s", error)
            return None
        if not isinstance(sent, Handle):
            return None
        self._sent.append((tensor.home, sent))
        return sent


class ForwardedTensor(torch.Tensor):
    """A ring-backed tensor of the EngineCore; what is computed from it is an ordinary tensor."""

    home: Reader
    peers: bytes

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    def __reduce_ex__(self, protocol: Any) -> Any:
        plain = self.as_subclass(torch.Tensor)
        message = Broadcast.now()
        if message is None:
            return _pickled(plain, protocol)
        handle = message.share(self, plain)
        if handle is not None:
            return worker.open_handle, (bytes(handle),)
        # Its bytes beside the pickle, as vLLM's queue does for an ordinary tensor, where this version does.
        beside = getattr(sys.modules.get(_MODULE), "_reduce_tensor", None)
        return _pickled(plain, protocol) if beside is None else beside(plain)

    def __deepcopy__(self, memo: Any) -> torch.Tensor:
        return self.as_subclass(torch.Tensor).clone()


def _pickled(plain: torch.Tensor, protocol: Any) -> Any:
    """A copy, because of a view torch pickles all that its storage holds: here the block."""
    return plain.clone().__reduce_ex__(protocol)  # type: ignore[no-untyped-call]


def module() -> Module:
    """The seam in vllm.distributed.device_communicators.shm_broadcast."""

    def forward(original: Callable[..., Any], queue: Any, *args: Any, **kwargs: Any) -> Any:
        message = Broadcast(vars(queue).get(_ATTRIBUTE))
        return message.run(lambda: original(queue, *args, **kwargs))

    return Module(_MODULE, (Seam("MessageQueue", "enqueue", ("self", "obj"), forward, "acquire_write"),))
