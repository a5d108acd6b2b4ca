"""The program that docs/build-an-engine.md leads through, in the pieces that it is shown in.

Together they are the whole program, in order: the page's python blocks run as it does.
"""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ENGINE: Final = Path(__file__).resolve().parents[2] / "examples" / "engine" / "engine.py"


def parts() -> dict[str, str]:
    """Fenced blocks, by the name of what each defines; ``imports`` are the first, ``main`` has what starts it."""
    text = ENGINE.read_text()
    return {name: f"```python\n{piece.strip()}\n```" for name, piece in pieces(text)}


def pieces(text: str) -> Iterator[tuple[str, str]]:
    """Each definition of a module's top level, its imports before and what runs it with the last."""
    lines = text.splitlines(keepends=True)
    tree = ast.parse(text)
    docstring, *statements = tree.body
    defined = [node for node in statements if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)]
    starts = [docstring.end_lineno or 0, *(node.lineno - 1 for node in defined)]
    ends = [*starts[1:], len(lines)]
    for name, start, end in zip(["imports", *(node.name for node in defined)], starts, ends, strict=True):
        yield name, "".join(lines[start:end])
