"""A ring and a reader that looks like another process, for the tests that have none of their own."""

from collections.abc import Iterator

import pytest

from shmtransport import Reader, Ring
from tests.peers import join_as_if_another_process


@pytest.fixture
def ring() -> Iterator[Ring]:
    with Ring.create(capacity="4MiB", segment="1MiB", name="camera") as ring:
        yield ring


@pytest.fixture
def reader(ring: Ring) -> Iterator[Reader]:
    with join_as_if_another_process(ring.id, "engine") as reader:
        yield reader
