"""A /dev/shm that is small, has no inodes left, is read-only, closed, missing, or noexec."""

import errno
import gc
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from shmtransport import OutOfSharedMemoryError, Reader, Ring, SegmentError, sweep
from shmtransport.config import BackingName
from tests.pressure.forks import Forks
from tests.pressure.limits import mounted, unprivileged
from tests.pressure.operations import join_anew, pixels, same, small_ring
from tests.support import SHARED_MEMORY

MIB = 1 << 20


@contextmanager
def refused(number: int | None = None) -> Iterator[None]:
    """Nothing can be made here, and that is a `SegmentError`."""
    with pytest.raises(SegmentError) as caught:
        yield
    assert number is None or caught.value.errno == number, caught.value


def works(backing: BackingName) -> None:
    with small_ring(backing) as ring, join_anew(ring) as reader:
        tensor = reader.open(bytes(ring.share(pixels(1), reader)))
        same(tensor, 1)
        del tensor


def the_default_of_docker() -> None:
    with mounted("size=64m"):
        with pytest.raises(OutOfSharedMemoryError, match="/dev/shm"):
            Ring.create(backing="posix")  # its first segment alone has 64 MiB, the control segment comes on top
        assert os.listdir(SHARED_MEMORY) == []
        with Ring.create() as ring:
            assert ring.attachment.backing.NAME == "memfd"
            assert ring.holds(ring.put(torch.ones(MIB)))
        with Ring.create("1GiB", segment="16MiB", backing="posix") as ring:
            sent = [torch.full((16 * MIB,), fill, dtype=torch.uint8) for fill in range(6)]
            put = [ring.put(tensor) for tensor in sent]
            assert [ring.holds(tensor) for tensor in put] == [True] * 3 + [False] * 3
            assert all(bool((tensor == fill).all()) for fill, tensor in enumerate(put))
            assert ring.statistics().inline == {"full": 3}
            put.clear()
            assert ring.holds(ring.put(sent[5]))
        assert os.listdir(SHARED_MEMORY) == []


def eight_megabytes() -> None:
    """Anonymous segments are not bound by it: everything works, and nothing is left out of the ring."""
    with mounted("size=8m"), Ring.create("64MiB", segment="4MiB") as ring, join_anew(ring) as reader:
        assert ring.attachment.backing.NAME == "memfd"
        lent = [ring.put(torch.full((4 * MIB,), fill, dtype=torch.uint8)) for fill in range(16)]
        assert all(ring.holds(tensor) for tensor in lent)
        assert all(bool((reader.open(bytes(ring.share(lent[fill], reader))) == fill).all()) for fill in range(16))
        lent.clear()
        with Ring.create("4MiB", segment="1MiB", entries=64) as small:  # there is room for this one
            assert small.attachment.backing.NAME == "posix"
        assert os.listdir(SHARED_MEMORY) == []


def no_inodes() -> None:
    with mounted("size=16m,nr_inodes=4"):  # the folder itself, the control segment, two data segments
        with small_ring("posix") as ring:
            held = [ring.put(pixels(fill)) for fill in (1, 2)]
            with refused(errno.ENOSPC):
                ring.put(pixels(3))
            with refused(errno.ENOSPC):
                small_ring("posix")
            for fill, tensor in zip((1, 2), held, strict=True):
                same(tensor, fill)
            assert len(os.listdir(SHARED_MEMORY)) == 3
            del tensor
            held.clear()
            same(ring.put(pixels(4)), 4)
        gc.collect()  # the errors that pytest keeps, with their frames and the ring
        works("posix")


def nobody_may_write() -> None:
    with mounted("size=16m,ro"):
        with refused():
            small_ring("posix")
        with refused():
            Reader.join("0" * 32)
        assert sweep() == []
        works("memfd")
        with Ring.create("1MiB") as ring:
            assert ring.attachment.backing.NAME == "memfd"


def nobody_may_enter() -> None:
    with mounted("size=16m,mode=000"), unprivileged():
        with refused():
            small_ring("posix")
        with refused(errno.EACCES):
            sweep()
        with refused():
            Reader.join("0" * 32)


def it_is_missing() -> None:
    with mounted("size=1m", on=Path("/dev")):
        with refused():
            small_ring("posix")
        with refused():
            Reader.join("0" * 32)
        assert sweep() == []
        works("memfd")
    works("posix")


def it_is_noexec() -> None:
    with mounted("size=16m,noexec,nosuid,nodev"):
        works("posix")


@pytest.mark.parametrize(
    "mount",
    [
        the_default_of_docker,
        eight_megabytes,
        no_inodes,
        nobody_may_write,
        nobody_may_enter,
        it_is_missing,
        it_is_noexec,
    ],
)
def test_a_mount_that_refuses_is_a_typed_error_and_what_fits_works(forks: Forks, mount: Callable[[], None]) -> None:
    forks.call(mount)
