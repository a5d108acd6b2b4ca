"""Fenced blocks, of documents and of docstrings.

The ``python`` blocks of a text are one program: they run in order, in one namespace, in a process of their own. The
program is the text with every other line emptied, so that a traceback names the text's own line, and it is a real
file, so that a child process that imports its ``__main__`` finds it.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

# What a block may be called; nothing but python is run, so nothing that looks like a program may hide under
# another name.
LANGUAGES = {"python", "text", "console", "c", "json", "toml"}
RUN = "import runpy, sys; runpy.run_path(sys.argv[1], run_name='__main__')"
"""Takes the path of a program."""


class Fence(NamedTuple):
    """One fenced block: what stands behind the opening fence, the number of its first line, its lines."""

    language: str
    line: int
    lines: list[str]


def fences(text: str) -> Iterator[Fence]:
    opening, fence = None, Fence("", 0, [])
    for number, line in enumerate(text.splitlines(), 1):
        if opening is None:
            if match := re.match(r" {0,3}(```+)(.*)", line):
                opening, fence = match[1], Fence(match[2].strip(), number + 1, [])
        elif line.strip() == opening:
            opening = None
            yield fence
        else:
            fence.lines.append(line)
    assert opening is None, f"line {fence.line - 1}: a fence that is never closed"


def program_of(text: str) -> str:
    """The document's python blocks, each on the lines where it stands."""
    lines = [""] * len(text.splitlines())
    for fence in fences(text):
        if fence.language == "python":
            lines[fence.line - 1 : fence.line - 1 + len(fence.lines)] = fence.lines
    return "\n".join(lines) + "\n"


def unknown_languages(text: str) -> list[str]:
    return [f"line {f.line - 1}: ```{f.language}" for f in fences(text) if f.language not in LANGUAGES]
