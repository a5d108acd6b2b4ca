"""A real cgroup with a memory limit: what goes over it is refused, for the kernel would not refuse but kill."""

import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from shmtransport import OutOfSharedMemoryError, Ring
from shmtransport.config import BACKINGS, BackingName
from tests.doctoring import examined
from tests.pressure.forks import Forks
from tests.support import wait_until, with_shared_memory

MIB = 1 << 20
LIMIT_NBYTES = 64 * MIB
_ROOTS = {
    Path("/sys/fs/cgroup/memory"): "memory.limit_in_bytes",
    Path("/sys/fs/cgroup"): "memory.max",
}


@pytest.fixture
def cgroup() -> Iterator[Path]:
    for root, limit in _ROOTS.items():
        group = root / f"shmt-test-{secrets.token_hex(4)}"
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            if (group / limit).exists():
                (group / limit).write_text(str(LIMIT_NBYTES))
                yield group
                return
        finally:
            _remove(group)
    pytest.skip("no cgroup with a memory limit can be made here")


def _remove(group: Path) -> None:
    wait_until(lambda: not (group / "cgroup.procs").read_text())
    group.rmdir()


def within_the_limit(group: str, backing: BackingName) -> None:
    Path(group, "cgroup.procs").write_text(str(os.getpid()))
    with pytest.raises(OutOfSharedMemoryError, match="the cgroup's memory limit") as caught:
        Ring.create("4GiB", segment="1GiB", backing=backing)
    assert caught.value.free_nbytes <= LIMIT_NBYTES
    with Ring.create("1GiB", segment="4MiB", entries=64, backing=backing) as ring:
        tensor = torch.full((4 * MIB,), 7, dtype=torch.uint8)
        reserve = b"." * (8 * MIB)  # the ring takes all that it may: what is looked at below needs memory, too
        put = [ring.put(tensor) for _ in range(32)]
        del reserve
        by_handle = sum(ring.holds(each) for each in put)
        assert 4 <= by_handle < 16  # of 4 MiB each, in 64
        assert all(int(each[::4096].sum()) == 7 * 1024 for each in put)
        assert ring.statistics().inline == {"full": 32 - by_handle}
        put.clear()
        assert ring.holds(ring.put(tensor))


@pytest.mark.needs_cgroup
@pytest.mark.parametrize("backing", BACKINGS)
def test_a_ring_stays_within_its_cgroup_instead_of_being_killed(
    forks: Forks, cgroup: Path, backing: BackingName
) -> None:
    forks.call(within_the_limit, str(cgroup), backing)


@pytest.mark.needs_cgroup
@pytest.mark.parametrize("backing", BACKINGS)
def test_doctor_names_a_memory_limit_that_is_too_low_for_a_ring(cgroup: Path, backing: BackingName) -> None:
    enter = f"from pathlib import Path\nPath({str(cgroup / 'cgroup.procs')!r}).write_text('0')"
    before = f"from shmtransport.doctor.command import doctor\n{enter}"  # what is imported outside is charged there
    settings = {"SHMTRANSPORT_BACKING": backing, "SHMTRANSPORT_CAPACITY": "1GiB", "SHMTRANSPORT_SEGMENT": "256MiB"}
    found = examined(prefix=with_shared_memory("size=64g"), before=before, environment=settings)
    ring = found.of("vllm ring", "failure")
    assert "expected 258 MiB to begin with" in ring.text
    assert "(the cgroup's memory limit)" in ring.text
    assert "a memory limit higher by 4 GiB: docker run --memory, Kubernetes resources.limits.memory" in ring.remedy
    assert found.status == 1
