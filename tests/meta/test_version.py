"""The version is said in pyproject.toml and nowhere else; the changelog begins with it or with what comes after it."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import shmtransport
from tests.support import ROOT

VERSION: str = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
FOLDERS = ("shmtransport", "csrc", "tests", "bench", "examples", "docs")
# Records of runs, each with the version that ran.
RECORDS = (ROOT / "bench" / "results", ROOT / "docs" / "benchmarks.md")
SAYS_IT = {"pyproject.toml", "CHANGELOG.md"}
SUFFIXES = {".py", ".pyi", ".c", ".h", ".md", ".toml", ".txt", ".json", ".yml", ".in", ""}


def files(root: Path) -> Iterator[Path]:
    paths = [path for folder in FOLDERS for path in (root / folder).rglob("*")]
    for path in [*root.glob("*"), *paths]:
        recorded = any(path.is_relative_to(record) for record in RECORDS)
        if path.is_file() and path.suffix in SUFFIXES and not path.name.startswith(".") and not recorded:
            yield path


def repeated(root: Path, version: str) -> set[str]:
    """Files that say ``version``; another project's pin of the same number is not ours, a record says what ran."""
    ours = re.compile(rf"(?<![\d.=<>]){re.escape(version)}(?![\d.]|, torch )")
    return {str(path.relative_to(root)) for path in files(root) if ours.search(path.read_text())}


def headings(changelog: str) -> list[str]:
    return re.findall(r"^## (\S+)", changelog, flags=re.M)


def test_one_place_has_the_version() -> None:
    assert repeated(ROOT, VERSION) <= SAYS_IT
    assert "pyproject.toml" in repeated(ROOT, VERSION)


def test_a_second_place_is_found(tmp_path: Path) -> None:
    (tmp_path / "shmtransport").mkdir()
    (tmp_path / "shmtransport" / "a.py").write_text('__version__ = "1.2.3"\n')
    (tmp_path / "shmtransport" / "b.py").write_text('OTHERS = ("x==1.2.3", "11.2.3", "1.2.34")\n')
    (tmp_path / "shmtransport" / "c.md").write_text("2 CPUs; shmtransport 1.2.3, torch 2.13.0\n")
    assert repeated(tmp_path, "1.2.3") == {"shmtransport/a.py"}


def test_the_package_says_the_same() -> None:
    assert shmtransport.__version__ == VERSION


def test_the_changelog_begins_with_what_is_released_or_not_yet() -> None:
    newest, *older = headings((ROOT / "CHANGELOG.md").read_text())
    assert newest in ("Unreleased", VERSION)
    assert newest == VERSION or older[:1] in ([], [VERSION])


@pytest.mark.parametrize(
    ("text", "found"), [("## Unreleased\n### Added\n## 1.2.3 (2026-01-02)\n", ["Unreleased", "1.2.3"]), ("# A\n", [])]
)
def test_headings_are_found(text: str, found: list[str]) -> None:
    assert headings(text) == found
