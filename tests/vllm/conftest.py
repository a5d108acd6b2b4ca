"""Runs of real vLLM that several tests look at: each is served once a session, with those it is compared to."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.vllm import serving

if TYPE_CHECKING:
    from tests.vllm.serving import Failed, Served

pytest.register_assert_rewrite("tests.vllm.comparing")


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> "Callable[[str], Path]":
    """Of a family; made once, since it is only read."""

    @cache
    def made(family: str) -> Path:
        return serving.make_checkpoint(tmp_path_factory.mktemp("checkpoint"), family)

    return made


@pytest.fixture(scope="session")
def serve(checkpoint: "Callable[[str], Path]", tmp_path_factory: pytest.TempPathFactory) -> "Callable[[str], Served]":
    """Serves a run by its name in `serving.RUNS`."""
    recorder = serving.make_recorder(tmp_path_factory.mktemp("recorder"))

    @cache
    def tried(names: tuple[str, ...]) -> "dict[str, Served | Failed]":
        runs = {name: serving.RUNS[name] for name in names}
        (family,) = {run.family for run in runs.values()}
        return serving.serve(runs, checkpoint(family), recorder, tmp_path_factory.mktemp("runs"))

    def served(name: str) -> "Served":
        (names,) = (names for names in serving.SIDE_BY_SIDE if name in names)
        found = tried(names)[name]
        if isinstance(found, serving.Failed):
            pytest.fail(found.text, pytrace=False)
        return found

    return served
