"""An engine's seams, looked at before they are touched. Nothing here imports an engine, and nothing is wrapped."""

import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Any, Literal, NamedTuple, TypeAlias

Wrapper: TypeAlias = Callable[..., Any]
"""Called as ``wrapper(original, *args, **kwargs)``; of a method the first of these is ``self``."""


class SeamError(Exception):
    """The engine has no such seam, or another one than is understood here."""


class Seam(NamedTuple):
    """What is to be wrapped: ``owner.name`` of a module, whose parameters begin with ``parameters``."""

    owner: str
    """A class; empty for a function of the module itself."""
    name: str
    parameters: tuple[str, ...]
    wrapper: Wrapper | None
    """None: it is called, or replaced with its class, but must be there."""
    mentions: str = ""
    """A name that its code must use, because the wrapper relies on that."""
    optional: bool = False
    """Left out where it does not fit, without a word."""

    def place(self, module: str) -> str:
        """Its full name."""
        return ".".join(filter(None, [module, self.owner, self.name]))


class Module(NamedTuple):
    """A module of an engine with all that is to be wrapped in it."""

    name: str
    seams: tuple[Seam, ...]
    additions: tuple[tuple[str, str, Callable[..., Any]], ...] = ()
    """Methods that the engine does not have: owner, name, function."""


def check(module: ModuleType, seam: Seam) -> tuple[Any, Callable[..., Any]]:
    """The class or module that has ``seam``, and what stands there. Raises `SeamError` if it does not fit."""
    place = seam.place(module.__name__)
    owner = getattr(module, seam.owner, None) if seam.owner else module
    original = getattr(owner, seam.name, None)
    if not (inspect.isclass(owner) or owner is module) or not inspect.isfunction(original):
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
    """Whether each of ``module``'s seams is in the engine's module, None if that is not there. Wraps nothing."""
    looks = []
    for seam in module.seams:
        place = seam.place(module.name)
        try:
            if loaded is None:
                raise SeamError(f"{place} is not there")
            check(loaded, seam)
        except SeamError as error:
            looks.append(Look(place, "left out" if seam.optional else "missing", str(error)))
        else:
            looks.append(Look(place, "found"))
    return looks
