"""vLLM's seams: looked at before they are touched, all of a module or none, and undone if one does not fit.

Nothing here imports vLLM: a module that is loaded is wrapped at once, any other when vLLM itself has imported it.
"""

import functools
import importlib.util
import inspect
import logging
import sys
import threading
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, Literal, NamedTuple, TypeAlias

logger = logging.getLogger("vllm.plugins.shmtransport")  # below "vllm", whose handler and level it takes

Wrapper: TypeAlias = Callable[..., Any]
"""Called as ``wrapper(original, self, *args, **kwargs)``."""


class SeamError(Exception):
    """vLLM has no such seam, or another one than is understood here."""


class Seam(NamedTuple):
    """A method to wrap: ``owner.name`` of a module, whose parameters begin with ``parameters``."""

    owner: str
    name: str
    parameters: tuple[str, ...]
    wrapper: Wrapper | None
    """None: it is called, not wrapped, but must be there."""
    mentions: str = ""
    """A name that its code must use, because the wrapper relies on that."""
    optional: bool = False
    """Left out where it does not fit, without a word."""


class Module(NamedTuple):
    """A module of vLLM with all that is to be wrapped in it."""

    name: str
    seams: tuple[Seam, ...]
    additions: tuple[tuple[str, str, Callable[..., Any]], ...] = ()
    """Methods that vLLM does not have: owner, name, function."""


def _checked(module: ModuleType, seam: Seam) -> tuple[type, Callable[..., Any]]:
    place = f"{module.__name__}.{seam.owner}.{seam.name}"
    owner = getattr(module, seam.owner, None)
    original = getattr(owner, seam.name, None)
    if not inspect.isclass(owner) or not inspect.isfunction(original):
        raise SeamError(f"{place} is not there")
    try:
        parameters = tuple(inspect.signature(original).parameters)
    except ValueError as error:
        raise SeamError(f"{place} has no signature") from error
    if parameters[: len(seam.parameters)] != seam.parameters:
        raise SeamError(f"{place} takes ({', '.join(parameters)}), expected ({', '.join(seam.parameters)}, ...)")
    if seam.mentions and seam.mentions not in inspect.unwrap(original).__code__.co_names:
        raise SeamError(f"{place} does not use {seam.mentions}")
    return owner, original


class Look(NamedTuple):
    """A seam that was looked for, or a whole module that could not be."""

    place: str
    state: Literal["found", "missing", "left out", "unseen"]
    """left out: it is optional."""
    why: str = ""
    """What is there instead; empty for one that was found."""


def look(module: Module, loaded: ModuleType | None) -> list[Look]:
    """Whether each of ``module``'s seams is in vLLM's module, None if that is not there. Wraps nothing."""
    looks = []
    for seam in module.seams:
        place = f"{module.name}.{seam.owner}.{seam.name}"
        try:
            if loaded is None:
                raise SeamError(f"{place} is not there")
            _checked(loaded, seam)
        except SeamError as error:
            looks.append(Look(place, "left out" if seam.optional else "missing", str(error)))
        else:
            looks.append(Look(place, "found"))
    return looks


def _is_left_out(module: ModuleType, seam: Seam) -> bool:
    if not seam.optional:
        return False
    try:
        _checked(module, seam)
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
                found = [(seam, *_checked(loaded, seam)) for seam in module.seams if not _is_left_out(loaded, seam)]
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
