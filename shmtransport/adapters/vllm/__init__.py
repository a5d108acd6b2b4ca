"""vLLM's big tensors from the frontend to the workers, and back, by handle, as a plugin of vLLM.

`register` is what vLLM calls, by the entry point ``vllm.general_plugins: shmtransport``, in each of its
processes. It wraps a few methods of vLLM and does nothing else; docs/vllm.md says what changes.

    seams       wrapping vLLM's methods, putting them back

    staging     big tensors of a processed input into the ring, in the thread that processed it
    fields      what each item of a batch says of all the others, left out
    sending     a process's ring, handles in its encoder
    encoding    a consumer for encoders that vLLM makes for itself

    frontend    the seams of clients and renderers
    link        one engine client and its engines: joining, sending, taking back
    core        handles in the EngineCore's decoder, errors of one request
    forwarding  handles in what the EngineCore sends to its workers
    worker      handles in a worker
    merging     a batch in a worker without a copy
    returning   handles in outputs, back to the frontend
    metrics     rings in vLLM's /metrics
"""

from typing import Final

from shmtransport.adapters.seams import Module
from shmtransport.adapters.settings import Settings
from shmtransport.adapters.vllm import core, encoding, forwarding, frontend, merging, metrics
from shmtransport.adapters.vllm.seams import Patches, logger
from shmtransport.errors import ConfigError

__all__ = ["modules", "register"]

_patches: Final[list[Patches]] = []


def modules(settings: Settings) -> tuple[Module, ...]:
    """All that is wrapped, by module of vLLM. Nothing is by this call."""
    others = (core.module(settings), forwarding.module(), encoding.module(), merging.module(), metrics.module())
    return (*frontend.modules(settings), *others)


def register() -> None:
    """Wraps vLLM's seams, those of modules that are not loaded as soon as they are. Idempotent, a few ms.

    Imports nothing of vLLM, creates nothing in shared memory. With SHMTRANSPORT_ENABLE=0, and, with one
    warning, for a setting that is wrong, vLLM's objects stay the very same.
    """
    if _patches:
        return
    try:
        settings = Settings.from_environment()
    except ConfigError as error:
        logger.warning("shmtransport is off, vLLM is as it was: %s", error)
        return
    if not settings.enabled:
        return
    if settings.log_level is not None:
        logger.setLevel(settings.log_level)
    _patches.append(Patches(modules(settings)))
    _patches[0].apply()
