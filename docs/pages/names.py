"""An extension of griffe: in docstrings, a name between single backticks leads to its entry in the reference.

A name is looked up from where its docstring stands: in its class and what that inherits, then in its module. One that
has no entry on any page stays as it is, and so does code that is indented.
"""

import re
from collections.abc import Iterator
from typing import Any, Final

from griffe import Extension, Module, NameResolutionError, Object

_NAME: Final = re.compile(r"(?<!`)`([A-Za-z_][\w.]*)`(?!`)")


class Names(Extension):
    """Loaded by mkdocs.yml."""

    def on_package(self, *, pkg: Module, **_: Any) -> None:
        """Once the whole package is there, so that what is inherited is known."""
        for thing in objects_in(pkg):
            if thing.docstring is not None:
                lines = thing.docstring.value.splitlines()
                thing.docstring.value = "\n".join(
                    line if line.startswith("    ") else led(line, thing) for line in lines
                )


def objects_in(thing: Object) -> Iterator[Object]:
    """``thing`` and all that is defined in it."""
    yield thing
    for member in thing.members.values():
        if isinstance(member, Object):
            yield from objects_in(member)


def led(line: str, place: Object) -> str:
    """``line``, its names leading to their entries."""
    return _NAME.sub(lambda name: f'<autoref optional identifier="{found(name[1], place)}">`{name[1]}`</autoref>', line)


def found(name: str, place: Object) -> str:
    """The full name of what ``name`` means in a docstring of ``place``; the name itself where it means nothing."""
    first, _, rest = name.partition(".")
    scope = place if place.is_class else place.parent
    if first == place.package.name:
        return name
    if scope is not None and scope.is_class and first in scope.all_members:
        full = scope.all_members[first].canonical_path
    else:
        try:
            full = place.resolve(first)
        except NameResolutionError:
            return name
    return f"{full}.{rest}" if rest else full
