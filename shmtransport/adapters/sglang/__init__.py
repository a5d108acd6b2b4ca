"""SGLang's multimodal tensors from a tokenizer to the ranks of its schedulers, by handle, as a plugin of SGLang.

`register` is what SGLang calls, by the entry point ``sglang.srt.plugins: shmtransport``, in each of its processes
that loads plugins. It registers a few hooks with SGLang's own `HookRegistry` and does nothing else; docs/sglang.md
says what changes.

    hooks       SGLang's seams, all of them or none
    pointer     what stands in a request in place of a tensor
    ranks       which ranks there are, and under which names they join
    sending     a tokenizer's ring, and what of a request is in it
    receiving   a rank: the rings it has joined, and the tensors of requests
"""

from functools import partial

from shmtransport.adapters.seams import Module, Seam
from shmtransport.adapters.settings import Settings
from shmtransport.adapters.sglang import hooks, receiving, sending
from shmtransport.adapters.sglang.hooks import logger
from shmtransport.adapters.sglang.pointer import POINTER, pointer_class
from shmtransport.adapters.sglang.receiving import Rank
from shmtransport.errors import ConfigError

__all__ = ["modules", "register"]


def modules(settings: Settings, rank: Rank | None = None) -> tuple[Module, ...]:
    """All that is wrapped or relied on, by module of SGLang. Nothing is by this call."""
    return (
        *sending.modules(settings),
        receiving.module(rank or Rank(settings)),
        Module("sglang.srt.managers.schedule_batch", (Seam("MultimodalInputs", "release_features", ("self",), None),)),
        Module("sglang.srt.runtime_context", (Seam("", "get_parallel", (), None), Seam("", "get_serving", (), None))),
        Module("sglang.srt.utils.msgpack_utils", (Seam("", "_is_shm_pointer_mm_data", ("obj",), None),)),
    )


def register() -> None:
    """Has SGLang's seams wrapped, by SGLang. Creates nothing in shared memory.

    With SHMTRANSPORT_ENABLE=0, and, with one warning, for a setting that is wrong or a seam that does not fit, nothing
    is registered and SGLang's objects stay the very same.
    """
    try:
        settings = Settings.from_environment(backing="memfd")
    except ConfigError as error:
        logger.warning("shmtransport is off, SGLang is as it was: %s", error)
        return
    if not settings.enabled:
        return
    if settings.log_level is not None:
        logger.setLevel(settings.log_level)
    rank = Rank(settings)
    hooks.register(modules(settings, rank), POINTER, partial(pointer_class, rank=rank))
