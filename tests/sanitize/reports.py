"""What sanitizers report, and a pytest plugin that fails the test in which one did, in whatever process.

A process that is told to writes its report into a file of its own, named after its pid. So one is found even if its
process was a child's child whose end nobody looks at.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

FOLDER_VARIABLE = "SHMTRANSPORT_SANITIZER_REPORTS"
LEAK = re.compile(r"^(?:Direct|Indirect) leak of .*\n(?: +#.*\n)*", re.M)
OURS = re.compile(r"/csrc/|_core\.abi3\.so")

SHORT_EXAMPLES = 40
"""With ``--short``, the most examples of a hypothesis test."""

MEASURES = {"test_memory_descriptors_mappings_and_names_stay_as_they_are_over_60_000_rounds"}
"""Left out: AddressSanitizer keeps what was freed, so a process's memory grows, and this is about just that."""


def environment(folder: Path, preloaded: list[Path], *, python: Path) -> dict[str, str]:
    """What a process needs to run the sanitized core and to report into ``folder``, its children likewise.

    * SIGSEGV and SIGBUS stay what they are: tests expect them of tensors that a child inherits.
    * Where a sanitizer finds an error, the process aborts, and faulthandler shows the Python stack.
    * Python and others leak at their exit, so a leak alone is no error; `reports` picks ours.
    * PYTHONMALLOC: each Python object is an allocation of its own, and one that is used after its end is seen.
    """
    common = f"log_path={folder / 'report'}:abort_on_error=1:handle_segv=0:handle_sigbus=0"
    return {
        **os.environ,
        FOLDER_VARIABLE: str(folder),
        "LD_PRELOAD": " ".join(map(str, preloaded)),
        "PYTHONPATH": os.pathsep.join([str(python), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "PYTHONMALLOC": "malloc",
        "ASAN_OPTIONS": f"{common}:detect_leaks=1:detect_stack_use_after_return=1:strict_string_checks=1"
        ":allocator_may_return_null=1",
        "LSAN_OPTIONS": "exitcode=0",
        "UBSAN_OPTIONS": f"{common}:print_stacktrace=1",
    }


def report_of(text: str) -> str:
    """A report without leaks that are not ours; empty if nothing is left."""
    if "LeakSanitizer: detected memory leaks" not in text:
        return text
    return "".join(leak for leak in LEAK.findall(text) if OURS.search(leak))


def reports(folder: Path) -> dict[str, str]:
    """By file name: what the sanitizers found in this project's own code."""
    found = {path.name: report_of(path.read_text(errors="replace")) for path in folder.iterdir()}
    return {name: text for name, text in found.items() if text}


@pytest.fixture(autouse=True)
def no_sanitizer_reports() -> Iterator[None]:
    """Fails a test during which a process wrote a report. A leak is found at a process's end only."""
    folder = Path(os.environ[FOLDER_VARIABLE])
    before = reports(folder)
    yield
    new = {name: text for name, text in reports(folder).items() if before.get(name) != text}
    if new:
        pytest.fail("\n".join(new.values()), pytrace=False)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--short", action="store_true", help=f"{SHORT_EXAMPLES} examples of a hypothesis test at most")


def fewer_examples(names: dict[str, object]) -> None:
    """Whatever among ``names`` are settings of hypothesis."""
    for name, value in list(names.items()):
        if isinstance(value, hypothesis.settings) and value.max_examples > SHORT_EXAMPLES:
            names[name] = hypothesis.settings(value, max_examples=SHORT_EXAMPLES)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    config.hook.pytest_deselected(items=[item for item in items if item.name in MEASURES])
    items[:] = [item for item in items if item.name not in MEASURES]
    if config.option.short:
        for item in items:
            if isinstance(item, pytest.Function):
                fewer_examples(vars(item.obj))  # where @settings keeps them
                fewer_examples(vars(item.module))  # for state machines


def pytest_report_header() -> str:
    from shmtransport import _core

    return f"sanitized core: {_core.__file__}, reports: {os.environ[FOLDER_VARIABLE]}"
