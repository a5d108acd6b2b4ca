"""Wrapping vLLM's methods, without vLLM: a module that is loaded, one that comes later, one that does not fit."""

import importlib
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shmtransport.adapters.seams import Module, Seam
from shmtransport.adapters.vllm.seams import Patches

FITTING = """
class Engine:
    def run(self, request, *, fast=False):
        return ["vLLM", request, fast]

    def uses(self):
        return self.receiver
"""


def answered_twice(original: Callable[..., Any], self: Any, *args: Any, **kwargs: Any) -> list[Any]:
    return [*original(self, *args, **kwargs), "ours"]


SEAMS = (
    Seam("Engine", "run", ("self", "request"), answered_twice),
    Seam("Engine", "uses", ("self",), None, "receiver"),
)


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], None]]:
    """Writes an importable module; everything is forgotten afterwards."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    names = []

    def written(name: str, text: str) -> None:
        (tmp_path / f"{name}.py").write_text(text)
        names.append(name)
        importlib.invalidate_caches()

    yield written
    for name in names:
        sys.modules.pop(name, None)


def test_a_loaded_module_is_wrapped_at_once_and_can_be_put_back(write: Callable[[str, str], None]) -> None:
    write("seams_loaded", FITTING)
    module = importlib.import_module("seams_loaded")
    before = dict(vars(module.Engine))
    patches = Patches([Module("seams_loaded", SEAMS, (("Engine", "extra", type),))])
    patches.apply()
    assert module.Engine().run(1, fast=True) == ["vLLM", 1, True, "ours"]
    assert module.Engine.extra is type
    patches.undo()
    assert dict(vars(module.Engine)) == before


def test_a_module_is_wrapped_when_it_is_imported_later(write: Callable[[str, str], None]) -> None:
    write("seams_later", FITTING)
    Patches([Module("seams_later", SEAMS)]).apply()
    assert "seams_later" not in sys.modules
    module = importlib.import_module("seams_later")
    assert module.Engine().run(1) == ["vLLM", 1, False, "ours"]
    assert type(module.__loader__).__name__ == "SourceFileLoader"


def test_modules_that_are_not_ours_are_left_alone(write: Callable[[str, str], None]) -> None:
    write("seams_other", FITTING)
    Patches([Module("seams_never", SEAMS)]).apply()
    assert importlib.import_module("seams_other").Engine().run(1) == ["vLLM", 1, False]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "seams_misfit.Engine.run is not there"),
        ("class Engine: pass", "seams_misfit.Engine.run is not there"),
        (FITTING.replace("request", "task"), "seams_misfit.Engine.run takes (self, task, fast)"),
        (FITTING.replace("receiver", "other"), "seams_misfit.Engine.uses does not use receiver"),
    ],
)
def test_one_seam_that_does_not_fit_undoes_all_with_one_warning(
    write: Callable[[str, str], None], caplog: pytest.LogCaptureFixture, text: str, named: str
) -> None:
    write("seams_fits", FITTING)
    write("seams_misfit", text)
    write("seams_after", FITTING)
    first = importlib.import_module("seams_fits")
    before = dict(vars(first.Engine))
    patches = Patches([Module(name, SEAMS) for name in ("seams_fits", "seams_misfit", "seams_after")])
    with caplog.at_level(logging.WARNING, logger="vllm"):
        patches.apply()
        importlib.import_module("seams_misfit")
        after = importlib.import_module("seams_after")
    assert dict(vars(first.Engine)) == before
    assert after.Engine().run(1) == ["vLLM", 1, False]
    (record,) = caplog.records
    assert named in record.getMessage()
    assert "off" in record.getMessage()


def test_an_optional_seam_that_does_not_fit_is_left_out_alone(
    write: Callable[[str, str], None], caplog: pytest.LogCaptureFixture
) -> None:
    write("seams_optional", FITTING)
    missing = Seam("Engine", "runs", ("self",), answered_twice, optional=True)
    patches = Patches([Module("seams_optional", (*SEAMS, missing))])
    with caplog.at_level(logging.WARNING, logger="vllm"):
        patches.apply()
        module = importlib.import_module("seams_optional")
    assert caplog.records == []
    assert module.Engine().run(1) == ["vLLM", 1, False, "ours"]
    assert not hasattr(module.Engine, "runs")
