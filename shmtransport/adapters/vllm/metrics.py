"""vLLM's own ``/metrics`` report the rings of its deployment, and no others.

One API server answers from ``prometheus_client.REGISTRY``: a collector is registered there with the process's first
ring. Several API servers share a folder, PROMETHEUS_MULTIPROC_DIR, and any of them answers for all, from a registry
that is made for each scrape: a seam of ``prometheus_client`` adds a collector to every registry of that kind.

A deployment's rings are those in which this process has a place and, with several API servers, those whose ids its
processes have left in that folder, which vLLM makes for one deployment and removes at its end. Pids or parents
would not do: two containers with one /dev/shm have the same ones.

Nothing happens without ``prometheus_client``. A scrape goes on in the thread that vLLM serves ``/metrics`` from, not
on its event loop.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from shmtransport import attachment, observing
from shmtransport.adapters.seams import Module, Seam
from shmtransport.adapters.vllm.seams import logger
from shmtransport.observing import Found

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

FOLDER: Final = "PROMETHEUS_MULTIPROC_DIR"
_NOTE: Final = "shmtransport-"
"""Begins the name of an empty file in that folder; a ring's id ends it."""


def show(ring_id: str) -> None:
    """This process has made or joined a ring: from now on it is reported, by this deployment's other API servers too.

    Never raises. Not for an event loop: it may write a file.
    """
    try:
        from prometheus_client import REGISTRY
    except ImportError:
        return
    _register(REGISTRY)
    if (folder := os.environ.get(FOLDER)) is not None:
        try:
            Path(folder, _NOTE + ring_id).touch(mode=0o600)
        except OSError as error:
            logger.debug("the other API servers' /metrics will lack ring %s: %s", ring_id[:8], error)


def module() -> Module:
    """The seam in prometheus_client.multiprocess."""

    def init(original: Callable[..., Any], collector: Any, registry: Any, *args: Any, **kwargs: Any) -> None:
        original(collector, registry, *args, **kwargs)
        if registry is not None:
            _register(registry)

    return Module(
        "prometheus_client.multiprocess",
        (Seam("MultiProcessCollector", "__init__", ("self", "registry"), init, optional=True),),
    )


def _register(registry: "CollectorRegistry") -> None:
    try:
        from shmtransport.metrics import Collector

        registry.register(Collector(_of_this_deployment))
    except (ImportError, ValueError):  # an old prometheus_client; or it reports them already
        return


def _of_this_deployment() -> list[Found]:
    try:
        noted = _noted()
        return observing.rings(lambda ring_id: attachment.is_attached(ring_id) or _NOTE + ring_id in noted)
    except Exception:  # noqa: BLE001
        logger.exception("shmtransport could not look at its rings, which /metrics lack now; please report it")
        return []


def _noted() -> set[str]:
    folder = os.environ.get(FOLDER)
    try:
        return set() if folder is None else set(os.listdir(folder))
    except OSError:  # vLLM is ending
        return set()
