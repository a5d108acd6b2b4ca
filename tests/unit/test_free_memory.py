"""How much shared memory there is: the least of what the mount and every cgroup above leave."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from shmtransport import (
    OutOfSharedMemoryError,
    Ring,
    segment,
)
from shmtransport.segment import room
from tests.support import SHARED_MEMORY


@pytest.fixture
def ring() -> Iterator[Ring]:
    with Ring.create(capacity="4MiB", segment="1MiB", entries=64) as ring:
        yield ring


def test_free_memory_is_what_the_mount_says(ring: Ring) -> None:
    backing = segment.BY_NAME["posix"]
    free, limit = backing.free_nbytes()
    assert 0 < free <= os.statvfs(SHARED_MEMORY).f_bavail * os.statvfs(SHARED_MEMORY).f_frsize
    assert limit in {str(SHARED_MEMORY), "the cgroup's memory limit"}
    backing.check_free(0)
    with pytest.raises(OutOfSharedMemoryError) as caught:
        backing.check_free(1 << 60)
    assert caught.value.asked_nbytes == 1 << 60
    assert caught.value.free_nbytes > 0
    assert isinstance(caught.value, OSError)


@pytest.mark.parametrize(
    ("limits", "uses", "expected"),
    [
        ({"": "max", "a": "1000", "a/b": "max"}, {"": 5000, "a": 400, "a/b": 300}, 600),
        ({"": "2000", "a": "1000", "a/b": "900"}, {"": 1900, "a": 400, "a/b": 300}, 100),
        ({"": "max", "a": "1000", "a/b": "max"}, {"": 0, "a": 1200, "a/b": 0}, 0),
        ({"": "max", "a": "max", "a/b": "max"}, {"": 0, "a": 0, "a/b": 0}, None),
    ],
)
def test_the_cgroup_with_the_least_left_counts_parents_too(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    limits: dict[str, str],
    uses: dict[str, int],
    expected: int | None,
) -> None:
    for folder, limit in limits.items():
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / "memory.max").write_text(f"{limit}\n")
        (tmp_path / folder / "memory.current").write_text(f"{uses[folder]}\n")
    monkeypatch.setattr(room, "_CGROUP", tmp_path)
    monkeypatch.setattr(room, "_cgroup_folders", lambda: iter([("memory.max", "memory.current", tmp_path / "a" / "b")]))
    assert room._cgroup_free_nbytes() == expected
    if expected is not None:
        for backing in segment.BY_NAME.values():
            assert backing.free_nbytes() == (expected, "the cgroup's memory limit")
