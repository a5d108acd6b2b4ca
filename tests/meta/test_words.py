"""The words of docs/glossary.md are used, and the banned ones are not, in the names that this project gives.

Only names that are ours count. In Python these are the names that a file binds (functions, classes,
arguments, variables, attributes), so that `tensor.data_ptr()` or `socket.send(frame, flags=0)` is free. C has
no such walk here: every identifier counts that is not CPython's (Py…) and not a field reached by `.` or `->`.
The buffer protocol keeps its word: `getbuffer` and `frombuffer` are one word each, and the signature of
`__buffer__` is Python's.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import ROOT

BANNED = {
    "chunk": "block",
    "buffer": "block or segment",
    "manager": "what it does",
    "util": "what it does",
    "utility": "what it does",
    "data": "payload, or what it is",
    "flag": "what it says, as a question",
    "enqueue": "put or send",
    "dequeue": "open or recv",
}
PROTOCOL = {"__buffer__", "__release_buffer__"}
SYSTEM = {"CMSG_DATA"}  # a macro of cmsg(3)


def words_of(identifier: str) -> list[str]:
    """``try_openBlock2`` is try, open, block."""
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", identifier)]


def banned_word(identifier: str) -> str | None:
    """The first banned word in an identifier, in the singular."""
    if identifier in PROTOCOL | SYSTEM:
        return None
    for word in words_of(identifier):
        for singular in (word, word.removesuffix("s"), re.sub("ies$", "y", word)):
            if singular in BANNED:
                return singular
    return None


def names_bound(text: str) -> Iterator[tuple[int, str]]:
    """Line and name of all that a Python file binds."""
    nodes = list(ast.walk(ast.parse(text)))
    protocol = (node for node in nodes if isinstance(node, ast.FunctionDef) and node.name in PROTOCOL)
    signatures = {node for function in protocol for node in ast.walk(function.args)}
    for node in nodes:
        if node in signatures:
            continue
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield node.lineno, name
            case ast.arg(arg=name) | ast.Name(id=name, ctx=ast.Store()):
                yield node.lineno, name
            case ast.Attribute(attr=name, ctx=ast.Store()) | ast.alias(asname=str(name)):
                yield node.lineno, name
            case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)):
                yield node.lineno, name
            case _:
                pass


def identifiers_in_c(text: str) -> Iterator[tuple[int, str]]:
    """Line and name of all identifiers in a C file that may be ours."""
    outside = re.compile(
        r"//[^\n]*|/\*.*?\*/|\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'|^\s*#\s*include[^\n]*", re.S | re.M
    )
    code = outside.sub(lambda match: "\n" * match[0].count("\n"), text)
    for number, line in enumerate(code.splitlines(), 1):
        for match in re.finditer(r"(?<![\w.])(?<!->)[A-Za-z_]\w*", line):
            if not match[0].startswith(("Py", "_Py")):
                yield number, match[0]


def banned_names(root: Path) -> list[str]:
    """Each banned word in a name of ``root``'s package and C sources, with its place and what to say for
    it."""
    found = []
    for path in sorted([*root.glob("shmtransport/**/*"), *root.glob("csrc/**/*")]):
        if path.suffix not in {".py", ".pyi", ".c", ".h"}:
            continue
        text = path.read_text()
        names = names_bound(text) if path.suffix.startswith(".py") else identifiers_in_c(text)
        for line, name in [(0, path.stem), *names]:
            if word := banned_word(name):
                found.append(f"{path.relative_to(root)}:{line} {name}: not {word!r} but {BANNED[word]}")
    return found


def test_no_name_has_a_banned_word() -> None:
    assert list(ROOT.glob("shmtransport/*.py"))
    assert banned_names(ROOT) == []


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("shmtransport/a.py", "data = 1"),
        ("shmtransport/a.py", "class BlockManager: pass"),
        ("shmtransport/a.py", "class A:\n    read_flags: int"),
        ("shmtransport/a.py", "def f(*, chunk_nbytes): pass"),
        ("shmtransport/a.py", "def f(self): self.buffer = 1"),
        ("shmtransport/a.py", "import numpy as data"),
        ("shmtransport/utils.py", ""),
        ("csrc/a.c", "int shmt_dequeue(void);"),
        ("csrc/a.h", "struct s { char *data; };"),
        ("csrc/python/a.c", "int ok; /* two\nlines */ static int in_buffer;"),
        ("csrc/buffer.h", ""),
    ],
)
def test_a_banned_name_is_found(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).write_text(text)
    assert len(banned_names(tmp_path)) == 1


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "shmtransport/a.py",
            "from dataclasses import dataclass\nfrom importlib.metadata import version\nt.data_ptr()",
        ),
        ("shmtransport/a.py", "socket.send(frame, flags=0)\ntensor = torch.frombuffer(block)"),
        ("shmtransport/a.py", "class A:\n    def __buffer__(self, flags): 'one chunk of data'"),
        ("csrc/a.c", '#include "data.h"\n// a chunk\nerror("data");'),
        (
            "csrc/python/a.c",
            "static int lease_getbuffer(PyObject *self, Py_buffer *view, int wanted) { view->flags; }",
        ),
        ("csrc/python/a.c", "static PyType_Slot slots[] = {{Py_bf_getbuffer, lease_getbuffer}};"),
    ],
)
def test_names_that_others_gave_are_allowed(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).write_text(text)
    assert banned_names(tmp_path) == []
