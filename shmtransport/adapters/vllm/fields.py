"""What each item of a batch says of all the others, left out of it.

vLLM cuts a batch into items by a field that has the slices of all of them (`MultiModalFlatField`; Gemma 3's pixels
are cut by one), and every item keeps that field. A request of n images thus brings n² slices through both hops,
which for a hundred images takes a third of the time that their pixels take by handle. Nobody reads them after the
cut: items are merged again by joining what they hold.
"""

import dataclasses
import inspect
from collections.abc import Iterable
from functools import cache
from typing import Any, Final

_SLICES: Final = "slices"
_MERGING: Final = ("reduce_data", "_reduce_data")


def forget_slices(elements: Iterable[Any]) -> None:
    """Gives each of vLLM's MultiModalFieldElems a field without slices, where merging does without them.

    Elements that had one field in common have one again. A field that this release of vLLM merges by is left alone.
    """
    without: dict[int, Any] = {}
    for element in elements:
        field: Any = getattr(element, "field", None)
        kind: type = type(field)
        if getattr(field, _SLICES, None) and _merges_without_slices(kind):
            if id(field) not in without:
                without[id(field)] = dataclasses.replace(field, **{_SLICES: ()})
            element.field = without[id(field)]


@cache
def _merges_without_slices(kind: type) -> bool:
    """Whether merging items does not read the slices by which they were cut, in this release."""
    methods: list[Any] = [getattr(kind, name, None) for name in _MERGING]
    return dataclasses.is_dataclass(kind) and all(
        code is not None and _SLICES not in code.co_names
        for code in (getattr(inspect.unwrap(method), "__code__", None) for method in methods)
    )
