"""A /dev/shm of 8 MB: everything that does not fit is a typed error before a byte is written, never SIGBUS.

The small /dev/shm is a tmpfs in a mount namespace of the child's own (user namespaces where that takes root).
"""

import os
import subprocess
import sys

import pytest

from tests.support import ROOT, with_shared_memory

pytestmark = pytest.mark.posix

LIMIT = """
import gc, os, sys
import torch
from shmtransport import *
MIB = 1 << 20

def ones(mib, fill=1):
    return torch.full((mib * MIB,), fill, dtype=torch.uint8)

def refused(call, asked_at_least, limit="/dev/shm"):
    try:
        call()
    except OutOfSharedMemoryError as error:
        assert error.asked_nbytes >= asked_at_least, error
        assert error.free_nbytes < error.asked_nbytes, error
        for text in (str(error.asked_nbytes), str(error.free_nbytes), limit, "--shm-size"):
            assert text in str(error), error
        return
    raise AssertionError("it was not refused")

def usable(ring):
    # Room that is there is used, written to its last byte, and read back.
    for fill in range(5):
        tensor = ring.put(ones(3, fill))
        assert ring.holds(tensor) and bool((tensor == fill).all())
        del tensor
"""


def with_8_mb(code: str) -> None:
    """Runs ``code`` where /dev/shm has 8 MB; its exit status proves that it ended by itself and in peace."""
    done = subprocess.run(
        [*with_shared_memory("size=8m"), sys.executable, "-c", LIMIT + code],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "SHMTRANSPORT_BACKING": "posix"},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, f"exit status {done.returncode}\n{done.stdout}{done.stderr}"


def test_a_ring_that_does_not_fit_is_refused_before_anything_is_made() -> None:
    with_8_mb(
        """
for segment in ("8MiB", "9MiB", "1GiB"):
    refused(lambda: Ring.create("4GiB", segment=segment, backing="posix"), 8 * MIB)
    assert os.listdir("/dev/shm") == []
with Ring.create("4GiB", segment="4MiB", entries=64) as ring:  # the capacity is a promise, a segment is memory
    usable(ring)
assert os.listdir("/dev/shm") == []
"""
    )


@pytest.mark.parametrize("on_full", ["raise", "block", "inline"])
def test_growth_that_does_not_fit_is_refused_and_the_ring_stays_usable(on_full: str) -> None:
    with_8_mb(
        f"""
on_full = {on_full!r}
with Ring.create("64MiB", segment="4MiB", entries=64, on_full=on_full, timeout_s=0.2) as ring:
    usable(ring)
    held = ring.put(ones(4, 7))
    assert ring.holds(held)
    for mib in (4, 5, 20):
        big = ones(mib)
        if on_full == "inline":
            assert ring.put(big) is big
            assert not ring.holds(ring.empty((mib * MIB,), torch.uint8))
        else:
            refused(lambda: ring.put(big), 4 * MIB)
            refused(lambda: ring.empty((mib * MIB,), torch.uint8), 4 * MIB)
        assert ring.statistics().segments == 1
        assert len(os.listdir("/dev/shm")) == 2
        assert bool((held == 7).all())
    assert ring.statistics().inline == ({{"full": 6}} if on_full == "inline" else {{}})
    del held
    usable(ring)
    assert bool((ring.put(ones(4, 9)) == 9).all())
assert os.listdir("/dev/shm") == []
"""
    )


def test_memory_that_somebody_else_took_is_seen_and_its_return_too() -> None:
    with_8_mb(
        """
with Ring.create("64MiB", segment="1MiB", entries=64, on_full="raise") as ring:
    with open("/dev/shm/somebody", "wb") as other:
        os.posix_fallocate(other.fileno(), 0, 5 * MIB)
        held = ring.put(ones(1, 3))
        refused(lambda: ring.put(ones(2)), 2 * MIB)
        assert bool((held == 3).all())
        os.unlink("/dev/shm/somebody")
    assert ring.holds(ring.put(ones(2)))
    assert ring.statistics().segments == 2
"""
    )


def test_a_full_dev_shm_between_the_look_and_the_reservation_is_refused_too() -> None:
    """The look at the free bytes is for the message; posix_fallocate is what guarantees the pages."""
    with_8_mb(
        """
from shmtransport.segment.backing import Backing
Backing.check_free = lambda self, *segments: None
refused(lambda: Ring.create("64MiB", segment="20MiB", entries=64), 20 * MIB, "posix_fallocate")
refused(lambda: Ring.create("64MiB", segment="4KiB", entries=1 << 20), 64 * MIB, "posix_fallocate")
assert os.listdir("/dev/shm") == []
with Ring.create("64MiB", segment="4MiB", entries=64, on_full="raise") as ring:
    held = ring.put(ones(4, 5))
    try:
        ring.put(ones(6))
    except OutOfSharedMemoryError as error:
        assert error.asked_nbytes == 6 * MIB and "posix_fallocate" in str(error), error
    else:
        raise AssertionError("6 MiB fitted")
    assert len(os.listdir("/dev/shm")) == 2
    assert bool((held == 5).all())
    del held
    usable(ring)
assert os.listdir("/dev/shm") == []
"""
    )
