"""Leases behind events and segments registered for DMA, with a driver that the test plays (driver.c).

Each test is a process of its own: a process has one driver.
"""

import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest

from shmtransport import Ring
from tests.support import run_python

Run: TypeAlias = Callable[[str], str]

PRELUDE = """
    import functools, gc, os, sys, time
    import torch
    from shmtransport import Ring, Reader, _core, cuda
    from tests.support import wait_until

    from tests.cuda.pretending import pretend

    tell = pretend(sys.argv[1])
    until = functools.partial(wait_until, timeout_s=20)

    def never(holds, seconds=0.2):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            assert not holds()
            time.sleep(0.001)

    def live():
        return ring.statistics().blocks

"""
RING = """
    ring = Ring.create(capacity="8MiB", segment="4MiB")
    cuda.register(ring.attachment)
    assert not ring.attachment.unregistered
"""


@pytest.fixture
def run(driver: Path) -> Run:
    """Runs code behind PRELUDE and RING; answers what it printed."""
    return lambda code: run_python("".join(map(textwrap.dedent, (PRELUDE, RING, code))), driver).stdout


def test_a_lease_ends_when_all_that_was_enqueued_before_has_passed(run: Run) -> None:
    run("""
    tensor = ring.put(torch.arange(1000))
    tell.enqueued = 7
    del tensor
    until(lambda: tell.records == 1)
    tell.enqueued = 8  # later work is not waited for
    never(lambda: live() != 1)
    assert _core.kept() == 1
    tell.done = 7
    until(lambda: live() == 0 and _core.kept() == 0)
    assert tell.records == 1
    """)


def test_leases_that_come_while_one_waits_share_the_next_event(run: Run) -> None:
    run("""
    tensors = [ring.put(torch.arange(1000) + i) for i in range(100)]
    tell.enqueued = 1
    tensors.pop()
    until(lambda: tell.records == 1)
    tell.enqueued = 2
    tensors.clear()
    never(lambda: tell.records != 1)
    tell.done = 1
    until(lambda: tell.records == 2 and live() == 99)
    never(lambda: live() != 99)
    tell.done = 2
    until(lambda: live() == 0)
    assert tell.records == 2
    """)


def test_several_leases_of_one_block_are_each_kept(run: Run) -> None:
    run("""
    tensor = ring.put(torch.arange(1000))
    views = [ring.open(ring.share(tensor, ring)) for _ in range(3)]
    tell.enqueued = 1
    views.clear()
    until(lambda: tell.records and _core.kept() == 3)
    del tensor
    until(lambda: _core.kept() == 4)
    never(lambda: live() != 1)
    tell.done = 1
    until(lambda: live() == 0)
    """)


def test_a_block_is_not_reused_before_its_event(run: Run) -> None:
    run("""
    tell.enqueued = 1
    seen = set()
    for i in range(4):
        tensor = ring.put(torch.full((1 << 18,), i, dtype=torch.int32))
        assert tensor.data_ptr() not in seen
        seen.add(tensor.data_ptr())
        del tensor
    until(lambda: tell.records)
    tell.done = 1
    until(lambda: live() == 0)
    assert ring.put(torch.zeros(1 << 18, dtype=torch.int32)).data_ptr() in seen
    """)


def test_nothing_is_recorded_while_a_graph_is_captured(run: Run) -> None:
    run("""
    _core.capturing(1)
    del_me = ring.put(torch.arange(1000))
    del del_me
    never(lambda: tell.records)
    assert live() == 1
    _core.capturing(-1)
    until(lambda: live() == 0)
    """)


def test_a_capture_that_nobody_announced_is_waited_for(run: Run) -> None:
    run("""
    tell.record_code = 900
    del_me = ring.put(torch.arange(1000))
    del del_me
    until(lambda: tell.records > 3)
    assert live() == 1
    tell.record_code = 0
    until(lambda: live() == 0)
    """)


@pytest.mark.parametrize("order", ["record_code = 700", "query_code = 719"])
def test_a_lost_device_reads_no_more(run: Run, order: str) -> None:
    run(f"""
    tell.{order}
    del_me = ring.put(torch.arange(1000))
    tell.enqueued = 1
    del del_me
    until(lambda: live() == 0)
    """)


def test_every_segment_is_registered_once_and_unregistered_before_it_is_unmapped(run: Run) -> None:
    run("""
    assert (tell.registered, tell.how) == (1, 1)  # portable, writable
    assert _core.pinned_nbytes() == 4 << 20
    first = ring.put(torch.zeros(3 << 20, dtype=torch.uint8))
    second = ring.put(torch.zeros(3 << 20, dtype=torch.uint8))
    view = ring.open(ring.share(second, ring))
    assert ring.attachment.unregistered == {1}
    cuda.register(ring.attachment)
    assert tell.registered == 2
    ring.close()
    del first, second
    never(lambda: tell.unregistered)
    del view, ring
    gc.collect()
    until(lambda: tell.unregistered == 2)
    assert _core.pinned_nbytes() == 0
    """)


def test_no_context_is_made(run: Run) -> None:
    run("""
    other = Ring.create(capacity="4MiB", segment="4MiB")
    tell.active = 0
    # The context known so far stays; a process that has none:
    pid = os.fork()
    if pid == 0:
        try:
            fresh = Ring.create(capacity="4MiB", segment="4MiB")
            cuda.register(fresh.attachment)
            assert fresh.attachment.unregistered == {0}  # asked again another time
            assert tell.created_without_context == 0
            tell.active = 1
            cuda.register(fresh.attachment)
            assert not fresh.attachment.unregistered
            del_me = fresh.put(torch.arange(1000))
            del del_me
            until(lambda: not fresh.statistics().blocks)  # by a keeper of its own
            fresh.close()
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    """)


def test_what_is_refused_is_used_unregistered_with_one_warning(run: Run) -> None:
    printed = run("""
    import logging
    logging.basicConfig(stream=sys.stdout)
    tell.register_code = 801
    for _ in range(2):
        other = Ring.create(capacity="4MiB", segment="4MiB")
        cuda.register(other.attachment)
        assert not other.attachment.unregistered
        assert other.open(other.share(other.put(torch.arange(1000)), other)).sum() == 499500
        other.close()
    """)
    assert printed.count("WARNING") == 1
    assert "cuMemHostRegister answered 801" in printed


@pytest.mark.parametrize(("value", "says"), [("5MiB", "allows 5242880 bytes"), ("many", "SHMTRANSPORT_PINNED")])
def test_the_budget_holds(run: Run, value: str, says: str) -> None:
    printed = run(f"""
    import logging
    logging.basicConfig(stream=sys.stdout)
    os.environ["SHMTRANSPORT_PINNED"] = {value!r}
    for _ in range(2):
        other = Ring.create(capacity="4MiB", segment="4MiB")
        cuda.register(other.attachment)
    assert tell.registered == 1
    """)
    assert printed.count("WARNING") == 1
    assert says in printed


def test_a_reader_registers_what_it_maps_read_only(driver: Path) -> None:
    with Ring.create(capacity="8MiB", segment="4MiB") as ring:
        code = """
        reader = Reader.join(sys.argv[2])
        cuda.register(reader.attachment)
        assert (tell.registered, tell.how) == (1, 9)  # portable, read-only
        """
        run_python(textwrap.dedent(PRELUDE) + textwrap.dedent(code), driver, ring.id)


def test_a_process_ends_while_leases_are_kept(run: Run) -> None:
    printed = run("""
    tell.enqueued = 1
    del_me = ring.put(torch.arange(1000))
    del del_me
    until(lambda: tell.records)
    print("ends", time.monotonic())
    """)
    assert printed.startswith("ends")
