"""A tokenizer and two ranks that have joined, for all tests that leave them alive."""

from collections.abc import Iterator

import pytest

from tests.processes.children import wait_until_gone
from tests.sglang.world import World, world

STRANGER = "from sglang.srt.managers import io_struct, mm_utils"
"""SGLang without the plugin."""


@pytest.fixture(scope="session")
def joined(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("world"), ranks=2, others={"stranger": STRANGER}) as made:
        made.join()
        yield made
        ring_id = made.tokenizer.ask("tokenizer.ring.id")
    wait_until_gone(ring_id)


@pytest.fixture
def two(joined: World) -> Iterator[World]:
    """Afterwards every lease has come back."""
    yield joined
    joined.clear()
    assert joined.used_nbytes() == 0, joined.tokenizer.ask("tokenizer.ring.statistics().holders()")
