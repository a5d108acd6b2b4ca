"""What `bench/record.py` wrote, and tables of it."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

Row = dict[str, Any]

RESULTS: Final = Path(__file__).resolve().parents[2] / "bench" / "results"


def result(name: str) -> dict[str, Any]:
    """One benchmark's ``machine``, ``date``, ``command`` and ``rows``."""
    recorded: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return recorded


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
