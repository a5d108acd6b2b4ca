"""The program built once a run; what a run of it that ends in the middle leaves in /dev/shm is swept afterwards."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from shmtransport import segment
from tests.stress.building import Form, build


@pytest.fixture(scope="session")
def programs() -> dict[Form, Path]:
    return {"thread": build("thread"), "address": build("address")}


@pytest.fixture(autouse=True)
def names_are_swept(shared_memory_is_left_as_it_was: None) -> Iterator[None]:
    """As the next start of anybody would do it."""
    yield
    segment.sweep()
