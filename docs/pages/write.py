"""Writes what programs make of docs/: a whole page, a picture, or the part of a page between two comments.

    make docs-write                  writes
    make docs-write ARGS=--check     exit status 1, and which, if something is not as it would be written

    sizing     bytes an image by model family, and capacities
    measured   figures of the first page, from bench/results/
    commands   the page of the command line, from its own help
    summary    the whole API on one page
    sources    the program of a page, from the file that it is
    pictures   a tensor's way, with and without

Beside these: `links` and `names`, the two hooks of the site.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from docs.pages import commands, measured, pictures, sizing, sources, summary

DOCS: Final = Path(__file__).resolve().parents[1]


def with_parts(page: str, parts: Mapping[str, str]) -> str:
    """``page`` with each of ``parts`` between its two comments. Raises `ValueError` for one that has no place."""
    for name, part in parts.items():
        begin, end = f"<!-- made by `make docs-write`: {name} -->\n", f"<!-- end of {name} -->\n"
        before, found, rest = page.partition(begin)
        _, ended, after = rest.partition(end)
        if not (found and ended):
            raise ValueError(f"expected a place for {name!r}, between {begin} and {end}")
        page = f"{before}{begin}\n{part.rstrip()}\n{end}{after}"
    return page


def made() -> dict[str, str]:
    """What each file that is made, in whole or in part, should hold; by its path from docs/."""
    parted = {
        "index.md": measured.parts(),
        "sizing.md": sizing.parts(),
        "reference/index.md": summary.parts(),
        "build-an-engine.md": sources.parts(),
    }
    parts = {name: with_parts((DOCS / name).read_text(), parts) for name, parts in parted.items()}
    return {**parts, "reference/commands.md": commands.page(), **pictures.files()}


def stale() -> list[str]:
    """Files that do not hold what they should."""
    return [name for name, text in made().items() if not (DOCS / name).exists() or (DOCS / name).read_text() != text]


def main() -> int:
    names = stale()
    for name in names:
        print(f"docs/{name}")
        if "--check" not in sys.argv:
            (DOCS / name).write_text(made()[name])
    return int(bool(names) and "--check" in sys.argv)


if __name__ == "__main__":
    sys.exit(main())
