"""Every call into libc, in every operation on a ring, fails once, and once from then on.

Whichever it is: an error of ours or a transfer inline, the same operation works right afterwards in the same process,
and no descriptor, mapping, name, thread or heap block is left. Private memory that cannot be had is a `MemoryError`, as
everywhere in Python; all else is a `ShmTransportError`.
"""

import errno

import pytest

from shmtransport.config import BACKINGS, BackingName
from shmtransport.segment import memfd
from tests.pressure.every import Outcomes, with_failing_calls
from tests.pressure.forks import Forks
from tests.pressure.operations import OPERATIONS

# With the errors that the manual page has for it, and that lead to ways of their own here.
CALLS: dict[str, tuple[int, ...]] = {
    "open": (errno.EMFILE,),
    "fopen": (errno.EMFILE,),
    "opendir": (errno.ENOMEM,),
    "statvfs": (errno.ENOENT,),
    "posix_fallocate": (errno.ENOSPC, errno.ENOMEM, errno.EFBIG),
    "shm_open": (errno.EMFILE, errno.ENOSPC, errno.EACCES),
    "shm_unlink": (errno.EACCES,),
    "fcntl": (errno.ENOLCK, errno.EAGAIN),
    "mmap": (errno.ENOMEM,),
    "madvise": (errno.ENOMEM,),
    "malloc": (errno.ENOMEM,),
    "calloc": (errno.ENOMEM,),
    "realloc": (errno.ENOMEM,),
    "pthread_create": (errno.EAGAIN,),
    "memfd_create": (errno.EMFILE,),
    "mkdir": (errno.EACCES,),
    "socket": (errno.EMFILE,),
    "bind": (errno.EACCES,),
    "listen": (errno.EADDRINUSE,),
    "accept4": (errno.EMFILE,),
    "connect": (errno.EAGAIN, errno.ENOMEM),
    "sendmsg": (errno.ENOBUFS,),
    "recvmsg": (errno.ENOMEM,),
}
PRIVATE_MEMORY = {"malloc", "calloc", "realloc"}

# Where a name cannot be removed, or the lock not be had under which that is allowed, it waits for the next sweep.
LEAVES_NAMES = {"shm_unlink", "fcntl"}

# Of the calls that are made to fail; what unlinks a socket is not one of them.
MAKES_NONE = {("close", "memfd")}

# What an application is promised not to see of a host without room.
NEVER_RAISES = {"grow, or go inline", "close", "share"}


def every_call(operation: str, backing: BackingName) -> dict[str, Outcomes]:
    """In a fork: what came of each call that the operation makes, by what failed and how."""
    memfd.DEADLINE_S = 0.2  # type: ignore[misc]  # for a writer whose end of the socket fails
    found = {}
    for function, errors in CALLS.items():
        for error in errors:
            for from_then_on in (False, True):
                seen = with_failing_calls(
                    operation,
                    backing,
                    function,
                    error,
                    from_then_on=from_then_on,
                    mended_by_a_sweep=function in LEAVES_NAMES,
                )
                if seen:
                    found[f"{function} {errno.errorcode[error]}{' from then on' if from_then_on else ''}"] = seen
                    assert function in PRIVATE_MEMORY or "MemoryError" not in seen
                    assert function in PRIVATE_MEMORY or operation not in NEVER_RAISES or seen.keys() == {"done"}
    return found


@pytest.mark.parametrize("backing", BACKINGS)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_whatever_call_fails_there_is_an_answer_and_nothing_is_left(
    forks: Forks, operation: str, backing: BackingName
) -> None:
    found = forks.call(every_call, operation, backing)
    for what, seen in found.items():
        print(f"{what}: {seen}")
    assert found or (operation, backing) in MAKES_NONE, "no call was made at all"
