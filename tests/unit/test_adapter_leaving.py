"""Names that a killed process leaves, removed by one that ends later: when a client is shut down, and at exit."""

import threading
import time

import pytest

from shmtransport import Ring
from shmtransport.adapters.leaving import Leaving
from tests.peers import join_as_if_another_process
from tests.support import run_python, running_python, segment_names

WRITER = """
    import sys, time
    from shmtransport import Ring
    ring = Ring.create("1MiB")
    print(ring.id, flush=True)
    sys.stdin.read()
"""


def test_a_process_that_is_killed_a_little_later_leaves_nothing() -> None:
    with running_python(WRITER) as engine:
        assert engine.stdout is not None
        ring_id = engine.stdout.readline().strip()
        leaving = Leaving()
        leaving.note(ring_id)
        killed = threading.Timer(0.2, engine.kill)
        killed.start()
        leaving.sweep()
        assert not any(ring_id in name for name in segment_names())
        killed.join()


def test_a_ring_that_somebody_goes_on_using_is_left_alone() -> None:
    with running_python(WRITER) as engine:
        assert engine.stdout is not None
        ring_id = engine.stdout.readline().strip()
        leaving = Leaving()
        leaving.note(ring_id)
        leaving.sweep()
        assert any(ring_id in name for name in segment_names())
        engine.kill()
        engine.wait()
        leaving.sweep()


def test_nobody_waits_for_a_ring_that_this_process_is_in() -> None:
    with Ring.create("1MiB") as ring, join_as_if_another_process(ring.id) as reader:
        leaving = Leaving()
        leaving.note(ring.id)
        begin = time.monotonic()
        leaving.sweep()
        assert time.monotonic() - begin < 1.0
        assert not reader.closed


@pytest.mark.parametrize("noted", [True, False], ids=["its own ring", "a child's ring"])
def test_at_exit_it_comes_after_what_was_made_later(noted: bool) -> None:
    ended = run_python(
        """
        import subprocess, sys, weakref
        from shmtransport import Ring
        from shmtransport.adapters.leaving import Leaving
        from tests.support import segment_names

        leaving = Leaving()
        engine = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdin=-1, stdout=-1, text=True)
        ring_id = engine.stdout.readline().strip()
        if sys.argv[2] == "True":
            leaving.note(ring_id)

        class Client:
            pass

        client = Client()
        weakref.finalize(client, engine.kill)
        print(ring_id)
        """,
        "import sys\nfrom shmtransport import Ring\nring = Ring.create('1MiB')\n"
        "print(ring.id, flush=True)\nsys.stdin.read()",
        noted,
    )
    ring_id = ended.stdout.strip()
    assert len(ring_id) == 32
    assert not any(ring_id in name for name in segment_names())
