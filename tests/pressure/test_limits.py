"""A process at its limits of descriptors, of address space and of a file's size: an error of ours, or inline."""

import errno
import resource

import pytest
import torch

from shmtransport import OutOfSharedMemoryError, Ring
from shmtransport.config import BACKINGS, BackingName
from shmtransport.segment.backing import Backing
from tests.pressure.every import Outcomes, with_limits
from tests.pressure.forks import Forks
from tests.pressure.limits import address_space_left, descriptors_left, files_of_at_most
from tests.pressure.operations import OPERATIONS

MIB = 1 << 20

# What works without a descriptor and without address space to spare.
ALWAYS_WORKS = {"grow, or go inline", "share", "close"}


def within_limits(operation: str, backing: BackingName) -> dict[str, Outcomes]:
    return {
        "descriptors": with_limits(operation, backing, descriptors_left),
        "address space": with_limits(operation, backing, address_space_left),
    }


@pytest.mark.parametrize("backing", BACKINGS)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_at_any_distance_from_a_limit_there_is_an_answer_and_nothing_is_left(
    forks: Forks, operation: str, backing: BackingName
) -> None:
    for limit, seen in forks.call(within_limits, operation, backing).items():
        print(f"{limit}: {seen}")
        assert operation not in ALWAYS_WORKS or seen.keys() == {"done"}


def files_up_to_a_size(backing: BackingName) -> None:
    small, large = torch.ones(MIB // 2, dtype=torch.uint8), torch.full((3 * MIB,), 2, dtype=torch.uint8)
    with files_of_at_most(2 * MIB):
        with pytest.raises(OutOfSharedMemoryError, match="RLIMIT_FSIZE") as caught:
            Ring.create("16MiB", segment="2052KiB", entries=64, backing=backing)
        assert (caught.value.asked_nbytes, caught.value.free_nbytes) == (2052 << 10, 2 * MIB)
        with pytest.raises(OutOfSharedMemoryError, match="RLIMIT_FSIZE"):
            Ring.create("16MiB", segment="1MiB", entries=1 << 20, backing=backing)
        with Ring.create(
            "16MiB", segment="2MiB", entries=64, on_full="raise", backing=backing
        ) as ring:  # exactly as large
            with pytest.raises(OutOfSharedMemoryError, match="RLIMIT_FSIZE"):
                ring.put(large)
            assert ring.holds(ring.put(small))
        with Ring.create("16MiB", segment="2MiB", entries=64, backing=backing) as ring:
            assert ring.put(large) is large
            with files_of_at_most(resource.RLIM_INFINITY):
                assert torch.equal(ring.put(large), large)
                assert ring.holds(ring.put(large))


@pytest.mark.parametrize("backing", BACKINGS)
def test_a_segment_larger_than_a_file_may_be_is_refused_where_its_signal_would_kill(
    forks: Forks, backing: BackingName
) -> None:
    forks.call(files_up_to_a_size, backing)


def _see_nothing(self: Backing, *segments: int) -> None: ...


def a_file_size_limit_that_came_after_the_look(backing: BackingName) -> None:
    """Not even a look can help then, but Python ignores the signal, and what remains is an error number."""
    Backing.check_free = _see_nothing  # type: ignore[method-assign]
    resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    with pytest.raises(OutOfSharedMemoryError, match="posix_fallocate: File too large"):
        Ring.create("16MiB", segment="2MiB", entries=64, backing=backing)
    with pytest.raises(OSError, match="File too large") as caught:
        Ring.create("16MiB", segment="1MiB", entries=1 << 20, backing=backing)
    assert caught.value.errno in (errno.EFBIG, None)


@pytest.mark.parametrize("backing", BACKINGS)
def test_a_file_size_limit_that_was_not_seen_is_an_error_number(forks: Forks, backing: BackingName) -> None:
    forks.call(a_file_size_limit_that_came_after_the_look, backing)
