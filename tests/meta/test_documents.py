"""What README.md and docs/ show runs, and what any document links to is there.

The ``python`` blocks of a document are one program (`tests.meta.fences`).
"""

import re
from pathlib import Path

import pytest

from tests.meta.fences import RUN, fences, program_of, unknown_languages
from tests.support import ROOT, run_python

TIMEOUT_S = 50.0


def make_targets_shown(text: str) -> set[str]:
    """The targets of every ``$ make …`` in a console block; options and assignments are no targets."""
    shown: set[str] = set()
    for fence in fences(text):
        for line in fence.lines if fence.language == "console" else ():
            for command in re.findall(r"(?:^\$ |&& )make ((?:[^&\"]|\"[^\"]*\")*)", line):
                words = re.sub(r"\w+=(?:\"[^\"]*\"|\S*)", "", command.split("#")[0]).split()
                shown.update(word for word in words if not word.startswith("-"))
    return shown


def prose_of(text: str) -> str:
    """A document without its code."""
    text = re.sub(r"^ {0,3}(```+).*?^ {0,3}\1\s*$", "", text, flags=re.S | re.M)
    return re.sub(r"`[^`\n]*`", "", text)


def anchors_of(text: str) -> set[str]:
    """The anchors that a Markdown document's headings get."""
    anchors: set[str] = set()
    without_blocks = re.sub(r"^ {0,3}(```+).*?^ {0,3}\1\s*$", "", text, flags=re.S | re.M)
    for heading in re.findall(r"^#+ +(.*)", without_blocks, flags=re.M):
        anchor = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        repeats = sum(1 for known in anchors if re.fullmatch(rf"{re.escape(anchor)}(-\d+)?", known))
        anchors.add(f"{anchor}-{repeats}" if repeats else anchor)
    return anchors


def broken_links(document: Path) -> list[str]:
    """Relative links in ``document`` to a file or heading that is not there."""
    prose = prose_of(document.read_text())
    targets = re.findall(r"\]\(<?([^)\s>]+)", prose) + re.findall(r"^\[[^\]]+\]: *(\S+)", prose, flags=re.M)
    found = []
    for target in targets:
        if re.match(r"[a-z][a-z0-9+.-]*:", target):
            continue
        name, _, anchor = target.partition("#")
        path = document.parent / name if name else document
        if not path.exists() or (anchor and path.suffix == ".md" and anchor not in anchors_of(path.read_text())):
            found.append(target)
    return found


def documents() -> list[Path]:
    """Every Markdown file of the project; README.md whether it is there or not."""
    nested = [
        path for folder in ("docs", "tests", "bench", "csrc", "examples") for path in (ROOT / folder).rglob("*.md")
    ]
    return sorted({ROOT / "README.md", *ROOT.glob("*.md"), *nested})


def runnable_documents() -> list[Path]:
    return [path for path in documents() if path.name == "README.md" or ROOT / "docs" in path.parents]


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("document", runnable_documents(), ids=name_of)
def test_the_python_blocks_of_a_document_run(document: Path, tmp_path: Path) -> None:
    program = tmp_path / document.name
    program.write_text(program_of(document.read_text()))
    run_python(RUN, program, cwd=tmp_path, timeout_s=TIMEOUT_S)


@pytest.mark.parametrize("document", documents(), ids=name_of)
def test_no_block_hides_from_being_run(document: Path) -> None:
    assert unknown_languages(document.read_text()) == []


@pytest.mark.parametrize("document", documents(), ids=name_of)
def test_make_has_every_target_that_a_document_shows(document: Path) -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z0-9-]+):", makefile, flags=re.M))
    assert make_targets_shown(document.read_text()) <= targets


@pytest.mark.parametrize("document", documents(), ids=name_of)
def test_the_links_of_a_document_lead_somewhere(document: Path) -> None:
    assert broken_links(document) == []


def test_readme_has_at_most_120_lines() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120


BLOCKS = """\
# A title
```python
x = 1
```
```text
x = 2
```
```python
assert x == 1, x
raise SystemExit("reached")
```
"""


def test_blocks_share_a_namespace_and_errors_name_the_documents_line(tmp_path: Path) -> None:
    program = tmp_path / "guide.md"
    program.write_text(program_of(BLOCKS.replace("x = 1", "x = 3")))
    failed = run_python(RUN, program, fails=True)
    assert re.search(r'guide.md", line 9, in <module>.*AssertionError: 3', failed.stderr, flags=re.S)
    program.write_text(program_of(BLOCKS))
    assert run_python(RUN, program, fails=True).stderr == "reached\n"


@pytest.mark.parametrize("language", ["python no-run", "py", "pycon", "bash", "sh", ""])
def test_a_block_that_would_not_be_run_is_found(language: str) -> None:
    assert unknown_languages(f"```{language}\nx\n```\n") == [f"line 1: ```{language}"]


def test_a_target_in_a_console_block_is_found() -> None:
    commands = '$ cd x && make demo\n$ make -j2 test ARGS="-k ring" CC=clang  # a while\nmake: none\n'
    text = f"```console\n{commands}```\n"
    assert make_targets_shown(text) == {"demo", "test"}


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("# One\n# Two words, `code`\n# One\n```text\n# Three\n```\n")
    document = tmp_path / "b.md"
    document.write_text(
        "[1](a.md) [2](a.md#two-words-code) [3](a.md#one-1) [4](https://x.org) `[5](no)`\n\n[6]: c.md\n"
        "![7](no.svg) [8](a.md#three) [9](#none)\n"
    )
    assert broken_links(document) == ["no.svg", "a.md#three", "#none", "c.md"]
