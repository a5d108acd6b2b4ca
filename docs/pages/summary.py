"""The whole API on one page: every public call, and the first sentence of what it says of itself."""

import inspect
import re
from collections.abc import Iterator
from typing import Any, Final

import shmtransport
from bench.report import markdown_table
from shmtransport import asyncio, metrics, observing

CLASSES: Final[dict[str, type]] = {
    "Ring": shmtransport.Ring,
    "Reader": shmtransport.Reader,
    "Endpoint": shmtransport.Endpoint,
    "Channel": shmtransport.Channel,
    "DevicePool": shmtransport.DevicePool,
}
FUNCTIONS: Final[dict[str, Any]] = {
    "sweep": shmtransport.sweep,
    "asyncio.Channel": asyncio.Channel,
    "observing.rings": observing.rings,
    "observing.look": observing.look,
    "metrics.Collector": metrics.Collector,
}
NOT_PROMISED: Final = {"attachment", "count_inline", "open_wire", "share_described", "share_wire", "write_record"}
"""Members that adapters, channels and pools use: they need no underscore, and may change."""


def parts() -> dict[str, str]:
    """Markdown, by the name of its place."""
    rows = [(f"`{name}{arguments(call)}`", first_sentence(call)) for name, call in calls()]
    return {"the whole of it": markdown_table(("call", "what it does"), rows)}


def calls() -> Iterator[tuple[str, Any]]:
    """Names as they are written, and what they name."""
    for name, kind in CLASSES.items():
        if name == "Channel":  # the one that is made by its own name
            yield name, kind
        for member, value in vars(kind).items():
            if not member.startswith("_") and member not in NOT_PROMISED:
                yield f"{name}.{member}", getattr(value, "__func__", value)
    yield from FUNCTIONS.items()


def arguments(call: Any) -> str:
    """In parentheses, with ``=`` behind those that are given by name; nothing for a property."""
    if isinstance(call, property):
        return ""
    parameters = [each for each in inspect.signature(call).parameters.values() if each.name not in ("self", "cls")]
    return f"({', '.join(f'{each.name}=' if each.kind is each.KEYWORD_ONLY else each.name for each in parameters)})"


def first_sentence(call: Any) -> str:
    """Of its docstring, on one line."""
    text = " ".join((inspect.getdoc(call) or "").partition("\n\n")[0].split())
    found = re.match(r"(.+?)[.:;](?: |$)", text)
    return (found[1] if found else text).replace("``", "`").replace("|", "\\|")
