"""Runs of real vLLM that several tests look at: each is served once a session."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.vllm import serving

if TYPE_CHECKING:
    from tests.vllm.serving import Served

pytest.register_assert_rewrite("tests.vllm.comparing")


@pytest.fixture(scope="session")
def serve(tmp_path_factory: pytest.TempPathFactory) -> "Callable[[str], Served]":
    """Serves a run by its name in `serving.RUNS`."""
    recorder = serving.make_recorder(tmp_path_factory.mktemp("recorder"))

    @cache
    def checkpoint(family: str) -> Path:
        return serving.make_checkpoint(tmp_path_factory.mktemp("checkpoint"), family)

    @cache
    def tried(name: str) -> "Served | BaseException":
        run = serving.RUNS[name]
        try:
            return serving.serve(run, checkpoint(run.family), recorder, tmp_path_factory.mktemp(name.replace(" ", "_")))
        except pytest.fail.Exception as failed:
            return failed

    def served(name: str) -> "Served":
        found = tried(name)
        if isinstance(found, BaseException):
            raise found  # and not another half minute for each test that looks at it
        return found

    return served
