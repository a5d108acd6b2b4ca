"""The checker itself: every kind of child runs the sanitized core, and what goes wrong in one fails the run."""

import os
import shlex
import signal
import subprocess
from pathlib import Path

import hypothesis
import hypothesis.strategies
import pytest

from tests.processes.children import KINDS, Kind, child
from tests.sanitize.preloaded.sitecustomize import CORE
from tests.sanitize.reports import SHORT_EXAMPLES, environment, fewer_examples, reports
from tests.support import running_python

BROKEN = """
#include <stdlib.h>
int overflows(int value) { return value + 1; }
int reads_behind(int index) { volatile char *bytes = malloc(8); return bytes[index]; }
static void *volatile kept;
int leaks(int nbytes) { kept = malloc(nbytes); kept = NULL; return 0; }
"""
ERRORS = {
    "overflows(2**31 - 1)": "signed integer overflow",
    "reads_behind(8)": "heap-buffer-overflow",
}
KINDS_AND_QUICK: tuple[Kind, ...] = (*KINDS, "quick")


@pytest.mark.parametrize("kind", KINDS_AND_QUICK)
def test_a_child_runs_the_sanitized_core(kind: Kind) -> None:
    with child(kind) as process:
        assert process.ask("shmtransport._core.__file__") == str(CORE)
        assert "libasan" in Path(f"/proc/{process.pid}/maps").read_text()


def call_broken(call: str, source: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[int, dict[str, str]]:
    """Exit status of a process that makes ``call``, and what it reported."""
    folder, library = source.parent / "reports", source.with_suffix(".so")
    folder.mkdir()
    source.write_text(BROKEN)
    options = "-shared -fPIC -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all"
    options += " -static-libubsan -Wl,--exclude-libs,libubsan.a"  # as in setup.py
    compiler = shlex.split(os.environ.get("CC", "cc"))
    subprocess.run([*compiler, *options.split(), str(source), "-o", str(library)], check=True, timeout=60)
    preloaded = [Path(name) for name in os.environ["LD_PRELOAD"].split()]
    for name, value in environment(folder, preloaded, python=CORE.parent).items():
        monkeypatch.setenv(name, value)
    with running_python(f"import ctypes, sys; ctypes.CDLL(sys.argv[1]).{call}", library) as process:
        process.communicate(timeout=30)
    return process.returncode, reports(folder)


@pytest.mark.parametrize("call", ERRORS)
def test_an_error_in_a_child_is_found(call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    status, found = call_broken(call, tmp_path / "broken.c", monkeypatch)
    assert status == -signal.SIGABRT
    assert [text for text in found.values() if ERRORS[call] in text]


@pytest.mark.parametrize(("folder", "is_ours"), [("csrc", True), ("elsewhere", False)])
def test_a_leak_in_a_child_is_found_if_it_is_ours(
    folder: str, is_ours: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / folder).mkdir()
    status, found = call_broken("leaks(4096)", tmp_path / folder / "broken.c", monkeypatch)
    assert status == 0
    assert bool([text for text in found.values() if "leak of 4096 byte(s)" in text]) == is_ours


def test_fewer_examples_reach_a_decorated_test_and_the_settings_of_a_state_machine() -> None:
    @hypothesis.settings(max_examples=500)
    @hypothesis.given(hypothesis.strategies.none())
    def decorated(value: None) -> None: ...

    names: dict[str, object] = {"SETTINGS": hypothesis.settings(max_examples=600), "other": 1}
    fewer_examples(names)
    fewer_examples(vars(decorated))
    assert names["other"] == 1
    changed = [names["SETTINGS"], *vars(decorated).values()]
    assert [value.max_examples for value in changed if isinstance(value, hypothesis.settings)] == [SHORT_EXAMPLES] * 2
