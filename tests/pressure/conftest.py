"""A process under failing.c with a /dev/shm of its own, whose forked children take what pressure a test exerts."""

from collections.abc import Iterator

import pytest

from shmtransport.segment.memfd import VARIABLE as SOCKET_DIRECTORY
from tests.pressure import failing
from tests.pressure.forks import Forks
from tests.processes.children import child
from tests.support import with_shared_memory


@pytest.fixture(scope="session")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    library = failing.build(tmp_path_factory.mktemp("failing"))
    sockets = tmp_path_factory.mktemp("sockets")
    environment = {failing.PRELOAD: str(library), SOCKET_DIRECTORY: str(sockets)}
    with child("unrelated", prefix=with_shared_memory("size=64m"), environment=environment) as parent:
        yield Forks(parent)
