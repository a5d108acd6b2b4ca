"""What happens between a look and the call that relied on it; and that failing.c fails what it is told to."""

import errno
import os

import pytest

from shmtransport import OutOfSharedMemoryError, Ring, SegmentError, SegmentNotFoundError
from shmtransport.segment import room
from tests.pressure.failing import loaded
from tests.pressure.forks import Forks
from tests.pressure.operations import join_anew, pixels, same, small_ring
from tests.support import SHARED_MEMORY, segment_names

SOMEBODY = SHARED_MEMORY / "somebody"


def take_all() -> None:
    facts = os.statvfs(SHARED_MEMORY)
    with SOMEBODY.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, facts.f_bavail * facts.f_frsize)


def space_goes_after_the_look() -> None:
    """The look is the call of statvfs; the next one is the reservation."""
    with loaded().at("posix_fallocate", 1, meanwhile=take_all) as hit, pytest.raises(OutOfSharedMemoryError) as caught:
        small_ring("posix")
    assert hit.hits == 1
    assert "posix_fallocate: No space left" in str(caught.value)
    assert os.listdir(SHARED_MEMORY) == [SOMEBODY.name]
    SOMEBODY.unlink()

    with small_ring("posix") as ring:
        held = [ring.put(pixels(1))]
        names = segment_names()
        with loaded().at("posix_fallocate", 1, meanwhile=take_all), pytest.raises(OutOfSharedMemoryError) as caught:
            ring.put(pixels(2))
        assert "posix_fallocate: No space left" in str(caught.value)
        assert segment_names() == names
        assert room.named_nbytes()[0] == 0
        SOMEBODY.unlink()
        held.append(ring.put(pixels(3)))
        same(held[0], 1)
        same(held[1], 3)
        held.clear()


def test_space_that_goes_between_the_look_and_the_reservation_is_the_same_error(forks: Forks) -> None:
    forks.call(space_goes_after_the_look)


def the_writer_leaves_while_a_join_fails() -> None:
    """Its lock byte kept the writer from removing the names, so the one who fails to join has to."""
    for n in (1, 2):
        ring = small_ring("posix")
        with loaded().at("calloc", n, errno.ENOMEM, meanwhile=ring.close) as hit, pytest.raises(MemoryError):
            join_anew(ring)
        assert hit.hits == 1
        ring.close()
        assert not segment_names()


def test_the_last_one_out_removes_the_names_even_if_it_never_got_in(forks: Forks) -> None:
    forks.call(the_writer_leaves_while_a_join_fails)


def every_name_is_swept_away() -> None:
    """As if each ring was swept as soon as it had a name, for ever."""
    with loaded().at("fcntl", 1, errno.EAGAIN, from_then_on=True), pytest.raises(SegmentError):
        small_ring("posix")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("shmtransport.attachment._try_create", _gone)
        with pytest.raises(SegmentNotFoundError):
            small_ring("posix")


def _gone(*_: object) -> Ring:
    raise SegmentNotFoundError("swept")


def test_creating_a_ring_does_not_try_for_ever(forks: Forks) -> None:
    forks.call(every_name_is_swept_away)


def a_fault_where_it_was_asked_for() -> None:
    failing = loaded()
    with failing.at("open", 2, errno.EMFILE) as fault:
        os.close(os.open("/", os.O_RDONLY))
        with pytest.raises(OSError, match="Too many open files"):
            os.open("/", os.O_RDONLY)
        os.close(os.open("/", os.O_RDONLY))
    assert fault.hits == 1
    with failing.at("statvfs", 2, errno.EIO, from_then_on=True) as fault:
        os.statvfs("/")
        for _ in range(3):
            with pytest.raises(OSError, match="Input/output error"):
                os.statvfs("/")
    assert fault.hits == 3
    os.statvfs("/")
    with failing.at("malloc", 1, errno.ENOMEM, from_then_on=True) as fault:
        assert len(bytearray(1 << 20)) == 1 << 20  # the interpreter's own memory is spared
    assert fault.hits == 0
    with pytest.raises(AssertionError, match="no such_function"), failing.at("such_function", 1):
        pass


def test_a_call_fails_when_and_where_it_was_asked_for_and_nowhere_else(forks: Forks) -> None:
    forks.call(a_fault_where_it_was_asked_for)


def a_lost_heap_block() -> None:
    held = loaded().held()
    ring = small_ring("posix")
    assert loaded().held() > held
    ring.close()
    assert loaded().held() == held


def test_heap_blocks_of_the_core_are_counted(forks: Forks) -> None:
    forks.call(a_lost_heap_block)
