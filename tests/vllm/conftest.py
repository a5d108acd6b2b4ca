"""Runs of real vLLM that several tests look at: each scenario is served once a session."""

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

import pytest

from tests.vllm import serving

if TYPE_CHECKING:
    from tests.vllm.serving import Served


@pytest.fixture(scope="session")
def serve(tmp_path_factory: pytest.TempPathFactory) -> "Callable[[str], Served]":
    """Serves a scenario by its name in `serving.SCENARIOS`."""
    checkpoint = serving.make_checkpoint(tmp_path_factory.mktemp("checkpoint"))
    recorder = serving.make_recorder(tmp_path_factory.mktemp("recorder"))

    @cache
    def served(scenario: str) -> "Served":
        return serving.serve(scenario, checkpoint, recorder, tmp_path_factory.mktemp(scenario))

    return served
