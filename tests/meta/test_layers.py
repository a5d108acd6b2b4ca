"""Imports only go down (docs/design.md, "Layers"), and each third-party dependency has its owner.

Within a layer a module may import another, but not in a circle: a layer is what can be understood together,
and a circle could only be understood at once. Imports inside functions and under TYPE_CHECKING count like all
others: who needs the type knows the module.
"""

import ast
import re
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.support import ROOT

PACKAGE = "shmtransport"

# The layers, lowest first. A new module gets its place here, and docs/design.md the same one. A name without
# a dot stands for a module, or for a folder with all that is in it.
LAYERS = (
    {"errors", "config", "formatting"},
    {"_core", "host", "layout", "segment"},
    {"attachment", "copying", "cuda", "device_memory"},
    {"dtypes", "tensors", "device_tensors", "rejoining", "handles", "codec", "messages"},
    {"endpoint", "ring", "reader", "device_pool", "statistics", "observing"}
    | {"exchange", "peers", "traffic", "channel", "asyncio"},
    {"__init__", "__main__", "cli", "demo", "demo_vllm", "doctor", "metrics", "testing", "adapters"},
)
LAYER_OF = {module: layer for layer, modules in enumerate(LAYERS) for module in modules}

# Who may import what is neither ours nor Python's; None: everyone.
OWNERS: dict[str, set[str] | None] = {
    "torch": None,
    "numpy": None,
    "msgspec": None,
    "posix_ipc": {"segment"},
    "zmq": {"channel", "asyncio", "demo"},
    "typer": {"cli", "demo", "demo_vllm", "doctor"},
    "rich": {"cli", "demo", "demo_vllm", "doctor"},
    "prometheus_client": {"metrics", "adapters"},
    "skimage": {"demo"},
    "PIL": {"demo_vllm"},
    "vllm": {"demo_vllm"},
    "sglang": {"adapters"},
    "transformers": {"demo_vllm"},
    "tokenizers": {"demo_vllm"},
    "safetensors": {"demo_vllm"},
}


def unit_of(dotted: str) -> str:
    """The name in LAYERS under which ``shmtransport.ring`` or ``shmtransport.demo.engine`` goes."""
    parts = dotted.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def imported_names(tree: ast.Module, package: str) -> Iterator[tuple[int, str]]:
    """Line and full name of everything imported; ``from x import y`` gives ``x.y``, whatever y is."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, name.name) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{base}.{name.name}") for name in node.names)


def violations(root: Path) -> list[str]:
    """What ``root``/shmtransport does against LAYERS and OWNERS, one line each."""
    found: list[str] = []
    modules = {path.relative_to(root).with_suffix("") for path in (root / PACKAGE).rglob("*.py")}
    known = {unit_of(".".join(module.parts)) for module in modules} | {"_core"}
    graph: dict[str, set[str]] = {}

    for module in sorted(modules):
        path = root / module.with_suffix(".py")
        unit = unit_of(".".join(module.parts))
        if unit not in LAYER_OF:
            found.append(f"{module}.py has no layer: add {unit!r} to LAYERS in tests/meta/test_layers.py")
            continue
        for line, name in imported_names(ast.parse(path.read_text()), ".".join(module.parent.parts)):
            place = f"{module}.py:{line}"
            top = name.split(".")[0]
            if top != PACKAGE:
                owners = OWNERS.get(top, set())
                if top not in sys.stdlib_module_names and owners is not None and unit not in owners:
                    found.append(f"{place} imports {top}, which is for {', '.join(sorted(owners)) or 'nobody'}")
                continue
            target = unit_of(name)
            if target not in known | set(LAYER_OF):
                target = "__init__"  # a name that the package itself exports
            if target == unit:
                continue
            graph.setdefault(unit, set()).add(target)
            if LAYER_OF.get(target, -1) > LAYER_OF[unit]:
                found.append(f"{place} in layer {LAYER_OF[unit]} imports {target} in layer {LAYER_OF[target]}")
    if circle := circle_in(graph):
        found.append(f"imports in a circle: {' -> '.join(circle)}")
    return found


def circle_in(graph: dict[str, set[str]]) -> list[str]:
    """One circle of ``graph``, from its first name in the alphabet back to it; empty if there is none."""
    try:
        TopologicalSorter({unit: sorted(graph[unit]) for unit in sorted(graph)}).prepare()
    except CycleError as error:
        members = error.args[1][:0:-1]
        start = members.index(min(members))
        return [*members[start:], *members[: start + 1]]
    return []


def test_imports_only_go_down() -> None:
    assert (ROOT / PACKAGE / "__init__.py").exists()
    assert violations(ROOT) == []


def test_only_the_python_face_includes_python_h() -> None:
    sources = [*ROOT.glob("csrc/**/*.c"), *ROOT.glob("csrc/**/*.h")]
    including = {path for path in sources if re.search(r"#\s*include\s*[<\"]Python\.h", path.read_text())}
    assert sources
    assert {path.parent for path in including} == {ROOT / "csrc" / "python"}


@pytest.mark.parametrize(
    ("module", "text", "expected"),
    [
        ("errors.py", "from .ring import Ring", "errors.py:1 in layer 0 imports ring in layer 4"),
        (
            "errors.py",
            "def f():\n    import shmtransport.ring",
            "errors.py:2 in layer 0 imports ring in layer 4",
        ),
        (
            "errors.py",
            "from shmtransport import segment",
            "errors.py:1 in layer 0 imports segment in layer 1",
        ),
        ("errors.py", "from shmtransport import _core", "errors.py:1 in layer 0 imports _core in layer 1"),
        ("ring.py", "from shmtransport import Ring", "ring.py:1 in layer 4 imports __init__ in layer 5"),
        ("ring.py", "from . import cli", "ring.py:1 in layer 4 imports cli in layer 5"),
        (
            "adapters/vllm.py",
            "from ..oddity import x",
            "imports in a circle: __init__ -> adapters -> __init__",
        ),
        ("ring.py", "import posix_ipc", "ring.py:1 imports posix_ipc, which is for segment"),
        ("ring.py", "from zmq.asyncio import Context", "ring.py:1 imports zmq, which is for"),
        ("ring.py", "import cffi", "ring.py:1 imports cffi, which is for nobody"),
        ("ring.py", "from .reader import Reader", "imports in a circle: reader -> ring -> reader"),
        ("oddity.py", "", "oddity.py has no layer: add 'oddity' to LAYERS"),
    ],
)
def test_a_violation_is_found(tmp_path: Path, module: str, text: str, expected: str) -> None:
    tree = {"__init__.py": "from . import adapters", "reader.py": "from .ring import Ring", "ring.py": ""}
    for name, content in {**tree, module: text}.items():
        path = tmp_path / PACKAGE / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    assert expected in "\n".join(violations(tmp_path))


def test_imports_down_and_within_a_folder_are_allowed(tmp_path: Path) -> None:
    tree = {
        "__init__.py": "from .ring import Ring\n__all__ = ['Ring']",
        "errors.py": "",
        "ring.py": "import asyncio, torch\nfrom shmtransport import _core, errors\nfrom . import statistics",
        "statistics.py": "from .errors import ClosedError",
        "demo/__init__.py": "from shmtransport import Ring",
        "demo/engine.py": "import zmq\nfrom . import frontend\nfrom ..ring import Ring",
        "demo/frontend.py": "from .engine import Engine",
    }
    for name, content in tree.items():
        path = tmp_path / PACKAGE / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    assert violations(tmp_path) == []
