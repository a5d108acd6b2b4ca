"""Whatever is public says what it guarantees, and so does every public method of it; what docstrings show runs."""

import ast
import inspect
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from shmtransport.errors import ShmTransportError
from tests.meta.fences import RUN, program_of, unknown_languages
from tests.meta.public import public_things
from tests.support import ROOT, run_python

DESCRIBED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
PACKAGE = sorted((ROOT / "shmtransport").rglob("*.py"))


def described_things(exported: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    """All that is exported, and what is public in each exported class itself, not in its bases."""
    for name, thing in exported.items():
        yield name, thing
        if inspect.isclass(thing):
            for member, value in vars(thing).items():
                if not member.startswith("_") and is_documentable(value):
                    yield f"{name}.{member}", value


def is_documentable(value: object) -> bool:
    return inspect.isroutine(value) or isinstance(value, property | classmethod | staticmethod)


def undocumented(exported: Mapping[str, object]) -> list[str]:
    """Names of ``described_things`` without a docstring; a dataclass's generated signature is none."""
    found = []
    for name, thing in described_things(exported):
        if not (inspect.isclass(thing) or inspect.ismodule(thing) or is_documentable(thing)):
            continue  # a constant; Python gives it its type's docstring
        text = inspect.cleandoc(thing.__doc__ or "")
        if not text or text.startswith(f"{name}("):
            found.append(name)
    return found


def docstrings(path: Path) -> Iterator[tuple[str, str]]:
    """Every docstring of a file, by the name of what has it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, DESCRIBED) and (text := ast.get_docstring(node)):
            yield getattr(node, "name", path.stem), text


EXAMPLES = {
    f"{path.relative_to(ROOT)}:{name}": text for path in PACKAGE for name, text in docstrings(path) if "```" in text
}


def programs_not_fenced(text: str) -> list[str]:
    """Indented blocks outside of fences that are Python, and so would be shown without being run."""
    outside = re.sub(r"^```.*?^```$", "", text, flags=re.S | re.M)
    blocks = re.findall(r"(?:^ {4}.*\n?|^\n)+", outside, flags=re.M)
    return [block for block in map(inspect.cleandoc, blocks) if block and is_python(block)]


def is_python(text: str) -> bool:
    try:
        ast.parse(text)
    except SyntaxError:
        return False
    return True


def says_where_it_may_be_used(thing: object) -> bool:
    """Threads or forks are spoken of."""
    return re.search(r"\b([Tt]hreads?|fork(ed)?)\b|[Tt]hread-safe", inspect.getdoc(thing) or "") is not None


def test_everything_public_has_a_docstring() -> None:
    exported = dict(public_things())
    assert exported
    assert undocumented(exported) == []


def test_every_public_class_and_function_says_what_holds_under_threads_or_forks() -> None:
    """Errors need not: they are values."""
    used = {name: thing for name, thing in public_things() if inspect.isclass(thing) or inspect.isroutine(thing)}
    values = {name for name, thing in used.items() if inspect.isclass(thing) and issubclass(thing, ShmTransportError)}
    silent = [name for name in used.keys() - values if not says_where_it_may_be_used(used[name])]
    assert silent == []


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_python_blocks_of_a_docstring_run(example: str, tmp_path: Path) -> None:
    assert unknown_languages(EXAMPLES[example]) == []
    program = tmp_path / "example.py"
    program.write_text(program_of(EXAMPLES[example]))
    run_python(RUN, program, cwd=tmp_path)


@pytest.mark.parametrize("path", PACKAGE, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_docstring_shows_a_program_without_a_fence(path: Path) -> None:
    assert [(name, program) for name, text in docstrings(path) for program in programs_not_fenced(text)] == []


def test_a_program_without_a_fence_is_found() -> None:
    text = "It does.\n\n    x = 1\n\n    ring.put(x)\n\nNone:\n\n    ring, reader   the ends\n\n```python\n    y\n```\n"
    assert programs_not_fenced(text) == ["x = 1\n\nring.put(x)"]


def test_what_has_no_docstring_is_found() -> None:
    class Bare:
        def method(self) -> None: ...

        @property
        def attribute(self) -> int:
            return 1

        def _private(self) -> None: ...

    class Documented:
        """Has one."""

        @classmethod
        def create(cls) -> None:
            """Has one."""

    assert undocumented({"Bare": Bare, "Documented": Documented, "VERSION": "1"}) == [
        "Bare",
        "Bare.method",
        "Bare.attribute",
    ]
