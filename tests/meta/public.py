"""What the reference on the site promises."""

import importlib
import inspect
from collections.abc import Iterator
from typing import Final

import msgspec

import shmtransport
from docs.pages.summary import NOT_PROMISED

PUBLIC: Final = {
    "shmtransport": shmtransport.__all__,
    "shmtransport.asyncio": ["Channel"],
    "shmtransport.metrics": ["Collector"],
    "shmtransport.observing": ["Found", "State", "look", "rings"],
}
"""Names by module."""

WIRE_FORMATS: Final = {"Handle", "Inline"}
"""Structs whose fields are nobody's to read."""


def public_things() -> Iterator[tuple[str, object]]:
    """Each of `PUBLIC`, by its full name."""
    for module, names in PUBLIC.items():
        for name in names:
            yield f"{module}.{name}", getattr(importlib.import_module(module), name)


def public_names() -> Iterator[str]:
    """The full name of each of them and, of each class, of its own public members."""
    for name, thing in public_things():
        yield name
        if inspect.isclass(thing):
            yield from (f"{name}.{member}" for member in _members(thing))


def _members(thing: type) -> Iterator[str]:
    fields: tuple[str, ...] = ()
    if issubclass(thing, msgspec.Struct) and thing.__name__ not in WIRE_FORMATS:
        fields = thing.__struct_fields__
    callables = (name for name, value in vars(thing).items() if inspect.isroutine(value) or isinstance(value, property))
    yield from (name for name in (*fields, *callables) if not name.startswith("_") and name not in NOT_PROMISED)
