"""Wrapping vLLM's seams: all of a module or none, and undone if one does not fit.

Nothing here imports vLLM: a module that is loaded is wrapped at once, any other when vLLM itself has imported it.
"""

import functools
import importlib.util
import logging
import sys
import threading
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from shmtransport.adapters.seams import Module, Seam, SeamError, Wrapper, check

logger = logging.getLogger("vllm.plugins.shmtransport")  # below "vllm", whose handler and level it takes


def _is_left_out(module: ModuleType, seam: Seam) -> bool:
    if not seam.optional:
        return False
    try:
        check(module, seam)
    except SeamError as error:
        logger.debug("not wrapped: %s", error)
        return True
    return False


def _wrapped(original: Callable[..., Any], wrapper: Wrapper) -> Callable[..., Any]:
    @functools.wraps(original)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        return wrapper(original, *args, **kwargs)

    return wrapped


class Patches:
    """What was put into vLLM's classes, and what stood there before. Thread-safe."""

    def __init__(self, modules: Sequence[Module]) -> None:
        self._waiting = {module.name: module for module in modules}
        self._undo: list[Callable[[], None]] = []
        self._lock = threading.RLock()

    def apply(self) -> None:
        """Wraps what is loaded and waits for the rest."""
        with self._lock:
            for name in list(self._waiting):
                if (loaded := sys.modules.get(name)) is not None and not _is_loading(loaded):
                    self.wrap(loaded)
            if self._waiting:
                sys.meta_path.insert(0, _AfterImport(self))

    def awaits(self, name: str) -> bool:
        """Whether a module of that name is to be wrapped and has not been."""
        return name in self._waiting

    def wrap(self, loaded: ModuleType) -> None:
        """Wraps one module. If a seam of it does not fit: everything is undone, for good, with one warning."""
        with self._lock:
            module = self._waiting.pop(loaded.__name__, None)
            if module is None:
                return
            try:
                found = [(seam, *check(loaded, seam)) for seam in module.seams if not _is_left_out(loaded, seam)]
                added = [(getattr(loaded, owner), name, function) for owner, name, function in module.additions]
            except (SeamError, AttributeError) as error:
                self.undo()
                logger.warning("shmtransport is off, vLLM is as it was: this version has another seam: %s", error)
                return
            for seam, owner, original in found:
                if seam.wrapper is not None:
                    self._set(owner, seam.name, _wrapped(original, seam.wrapper))
            for owner, name, function in added:
                self._set(owner, name, function)

    def undo(self) -> None:
        """Puts back what stood there; waits for nothing any more."""
        with self._lock:
            self._waiting.clear()
            while self._undo:
                self._undo.pop()()

    def _set(self, owner: type, name: str, value: object) -> None:
        if name in vars(owner):
            self._undo.append(functools.partial(setattr, owner, name, vars(owner)[name]))
        else:
            self._undo.append(functools.partial(delattr, owner, name))
        setattr(owner, name, value)


def _is_loading(module: ModuleType) -> bool:
    return bool(getattr(getattr(module, "__spec__", None), "_initializing", False))


class _AfterImport:
    """A finder that finds nothing by itself: it has a module wrapped as soon as its code has run."""

    def __init__(self, patches: Patches) -> None:
        self._patches = patches
        self._asking = threading.local()

    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:  # noqa: ARG002
        if not self._patches.awaits(name) or getattr(self._asking, "name", None) == name:
            return None
        self._asking.name = name
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self._asking.name = None
        if spec is None or spec.loader is None:
            return None
        run = spec.loader.exec_module

        def run_and_wrap(module: ModuleType) -> None:
            run(module)
            self._patches.wrap(module)

        # On this one loader object: whoever asks for a module's loader still gets one of the usual type.
        vars(spec.loader)["exec_module"] = run_and_wrap
        return spec
