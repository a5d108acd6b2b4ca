"""The example that needs torchvision, which is installed where vLLM is."""

import pytest

from tests.examples.running import TIMEOUT_S, run


@pytest.mark.timeout(TIMEOUT_S + 30)
def test_preprocessing_with_torchvision_writes_into_the_ring() -> None:
    run("in_place.with_torchvision")
