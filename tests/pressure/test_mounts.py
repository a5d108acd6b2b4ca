"""A /dev/shm that is small, has no inodes left, is read-only, closed, missing, or noexec."""

import errno
import gc
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import zmq

from shmtransport import Channel, OutOfSharedMemoryError, Reader, Ring, SegmentError, sweep
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


def works() -> None:
    with small_ring() as ring, join_anew(ring) as reader:
        tensor = reader.open(bytes(ring.share(pixels(1), reader)))
        same(tensor, 1)
        del tensor


def the_default_of_docker() -> None:
    with mounted("size=64m"):
        with pytest.raises(OutOfSharedMemoryError, match="/dev/shm"):
            Ring.create()  # its first segment alone has 64 MiB, and the control segment comes on top
        assert os.listdir(SHARED_MEMORY) == []
        with Ring.create("1GiB", segment="16MiB") as ring:
            sent = [torch.full((16 * MIB,), fill, dtype=torch.uint8) for fill in range(6)]
            put = [ring.put(tensor) for tensor in sent]
            assert [ring.holds(tensor) for tensor in put] == [True] * 3 + [False] * 3
            assert all(bool((tensor == fill).all()) for fill, tensor in enumerate(put))
            assert ring.statistics().inline == {"full": 3}
            put.clear()
            assert ring.holds(ring.put(sent[5]))
        assert os.listdir(SHARED_MEMORY) == []


def no_inodes() -> None:
    with mounted("size=16m,nr_inodes=4"):  # the folder itself, the control segment, two data segments
        with small_ring() as ring:
            held = [ring.put(pixels(fill)) for fill in (1, 2)]
            with refused(errno.ENOSPC):
                ring.put(pixels(3))
            with refused(errno.ENOSPC):
                small_ring()
            for fill, tensor in zip((1, 2), held, strict=True):
                same(tensor, fill)
            assert len(os.listdir(SHARED_MEMORY)) == 3
            del tensor
            held.clear()
            same(ring.put(pixels(4)), 4)
        gc.collect()  # the errors that pytest keeps, with their frames and the ring
        works()


def nobody_may_write() -> None:
    with mounted("size=16m,ro"):
        with refused(errno.EROFS):
            small_ring()
        with refused():
            Reader.join("0" * 32)
        assert sweep() == []


def nobody_may_enter() -> None:
    with mounted("size=16m,mode=000"), unprivileged():
        with refused(errno.EACCES):
            small_ring()
        with refused(errno.EACCES):
            sweep()
        with refused():
            Reader.join("0" * 32)


def it_is_missing() -> None:
    with mounted("size=1m", on=Path("/dev")):
        with refused(errno.ENOENT):
            small_ring()
        with refused(errno.ENOENT):
            sweep()
        with refused(errno.ENOENT), zmq.Context() as context, context.socket(zmq.PAIR) as socket:
            Channel(socket)
        with refused():
            Reader.join("0" * 32)
    works()


def it_is_noexec() -> None:
    with mounted("size=16m,noexec,nosuid,nodev"):
        works()


@pytest.mark.parametrize("mount", [the_default_of_docker, no_inodes, nobody_may_write, nobody_may_enter, it_is_missing, it_is_noexec])
def test_a_mount_that_refuses_is_a_typed_error_and_what_fits_works(forks: Forks, mount: Callable[[], None]) -> None:
    forks.call(mount)
