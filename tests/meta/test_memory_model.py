"""docs/memory-model.md and the `SYNC X-NAME` comments in csrc name the same points, at the same ends.

A point that one side has and the other has not is an order between processes that nobody can check.
"""

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import ROOT

DOCUMENT = ROOT / "docs" / "memory-model.md"
POINT = re.compile(r"\bSYNC ([A-Z]-[A-Z]+)")

Ends = dict[str, set[str]]
"""By point: its ends, as ``file.c:function``."""


def functions_of(text: str) -> Iterator[tuple[int, int, str]]:
    """First line, last line and name of each C function that begins in column 0, in this project's style."""
    lines = text.splitlines()
    begun: tuple[int, str] | None = None
    for number, line in enumerate(lines, 1):
        if begun is None and (match := re.match(r"[A-Za-z_][^;=]*?\b(\w+)\((?!\()[^;]*$", line)):
            begun = number, match[1]
            if line.rstrip().endswith("}"):
                yield number, number, match[1]
                begun = None
        elif begun is not None and line.startswith("}"):
            yield begun[0], number, begun[1]
            begun = None


def ends_in_code(root: Path) -> Ends:
    """A comment inside a function marks that function, one above it the function that follows."""
    ends: Ends = defaultdict(set)
    for path in sorted((root / "csrc").rglob("*.c")):
        text = path.read_text()
        functions = list(functions_of(text))
        for number, line in enumerate(text.splitlines(), 1):
            for name in POINT.findall(line):
                function = next((name for _, last, name in functions if number <= last), "?")
                ends[name].add(f"{path.name}:{function}")
    return dict(ends)


def points_in_headers(root: Path) -> set[str]:
    return {name for path in (root / "csrc").rglob("*.h") for name in POINT.findall(path.read_text())}


def ends_in_document(text: str) -> Ends:
    """Each point has a heading ``### SYNC X-NAME``; the code spans ``file.c:function`` below it are its ends."""
    ends: Ends = {}
    for section in re.split(r"^#+ ", text, flags=re.M)[1:]:
        if match := POINT.match(section):
            ends[match[1]] = set(re.findall(r"`(\w+\.c:\w+)`", section))
    return ends


def test_the_document_lists_exactly_the_points_and_ends_of_the_code() -> None:
    assert ends_in_document(DOCUMENT.read_text()) == ends_in_code(ROOT)


def test_every_point_has_at_least_two_ends() -> None:
    single = {name: ends for name, ends in ends_in_code(ROOT).items() if len(ends) < 2}
    assert single == {}


def test_headers_name_only_points_that_the_code_has() -> None:
    assert points_in_headers(ROOT) <= set(ends_in_code(ROOT))


CODE = """\
static int publish(int *at,
                   int value) {
    /* SYNC Z-END: both. */
    return 0;
}

/* Looks (SYNC Z-END)
 * and looks again. */
static int look(void) {
    return 1;
}
"""


def test_an_end_is_the_function_around_or_below_its_comment(tmp_path: Path) -> None:
    (tmp_path / "csrc" / "python").mkdir(parents=True)
    (tmp_path / "csrc" / "python" / "a.c").write_text(CODE)
    assert ends_in_code(tmp_path) == {"Z-END": {"a.c:publish", "a.c:look"}}


@pytest.mark.parametrize(
    "text",
    [
        "# SYNC Z-END\n`a.c:publish`\n",
        "# SYNC Z-END\n`a.c:publish` `a.c:look` `a.c:more`\n",
        "# SYNC Z-BEGIN\n`a.c:publish` `a.c:look`\n",
        "# SYNC Z-END\n`a.c:publish`\n# SYNC Z-MORE\n`a.c:look`\n",
    ],
)
def test_a_document_that_differs_is_found(tmp_path: Path, text: str) -> None:
    (tmp_path / "csrc").mkdir()
    (tmp_path / "csrc" / "a.c").write_text(CODE)
    assert ends_in_document(text) != ends_in_code(tmp_path)
    assert ends_in_document("# SYNC Z-END\n`a.c:publish` and `a.c:look`\n") == ends_in_code(tmp_path)
