"""A file stays under 400 lines, or says at its head why it does not.

The sentence begins "Over 400 lines because" and stands in the file's first 30 lines. It is read by people;
that it is there means that someone has asked whether a second idea inside deserves a file of its own.
"""

from pathlib import Path

import pytest

from tests.support import ROOT

MOST = 400
REASON = "Over 400 lines because "
FOLDERS = ("shmtransport", "csrc", "tests", "bench", "examples")
SUFFIXES = {".py", ".pyi", ".c", ".h"}


def unexplained(root: Path) -> list[str]:
    """Files of more than MOST lines that do not say why."""
    paths = [path for folder in FOLDERS for path in sorted((root / folder).rglob("*")) if path.suffix in SUFFIXES]
    found = []
    for path in paths:
        lines = path.read_text().splitlines()
        if len(lines) > MOST and REASON not in "\n".join(lines[:30]):
            found.append(f"{path.relative_to(root)}: {len(lines)} lines")
    return found


def test_a_long_file_says_why() -> None:
    assert unexplained(ROOT) == []


@pytest.mark.parametrize(("head", "found"), [("# Over 400 lines because so\n", False), ("# Long\n", True)])
def test_a_long_file_without_a_reason_is_found(tmp_path: Path, head: str, found: bool) -> None:
    (tmp_path / "csrc").mkdir()
    (tmp_path / "csrc" / "long.c").write_text(head + "\n" * MOST)
    assert bool(unexplained(tmp_path)) == found
