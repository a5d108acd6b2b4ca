"""SGLang's seams, all of them or none: what fits is registered with SGLang's own `HookRegistry`, which wraps it."""

import importlib
import logging
from collections.abc import Callable, Sequence
from typing import Any, Final

from shmtransport.adapters.seams import Module, SeamError, check

logger: Final = logging.getLogger("sglang.plugins.shmtransport")


def register(modules: Sequence[Module], replaced: str, replacement: Callable[[type], type]) -> bool:
    """Has the seams wrapped, and the class ``replaced``, a full name, by what ``replacement`` makes of it.

    Imports the modules, as `HookRegistry` does next. False, with one warning, and nothing is registered, if one of
    them does not fit.
    """
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    hooks = []
    try:
        for module in modules:
            loaded = importlib.import_module(module.name)
            for seam in module.seams:
                check(loaded, seam)
                if seam.wrapper is not None:
                    hooks.append((seam.place(module.name), seam.wrapper))
    except (SeamError, ImportError) as error:
        logger.warning("shmtransport is off, SGLang is as it was: this version has another seam: %s", error)
        return False
    for place, wrapper in hooks:
        HookRegistry.register(place, wrapper, HookType.AROUND)
    HookRegistry.register(replaced, replacement(_class_at(replaced)), HookType.REPLACE)
    return True


def _class_at(place: str) -> Any:
    module, _, name = place.rpartition(".")
    return getattr(importlib.import_module(module), name)
