"""Before a process ends: whom it can send to, and whether what it sent has arrived."""

import threading
from collections.abc import Iterator

import pytest

from shmtransport import Reader, Ring, WaitTimeoutError
from tests.processes.children import Child, child, pixels
from tests.support import wait_until


@pytest.fixture
def ring() -> Iterator[Ring]:
    with Ring.create("16MiB", name="here") as ring:
        yield ring


@pytest.fixture
def reader(ring: Ring) -> Iterator[Child]:
    with child("quick") as reader:
        reader.run("reader = Reader.join(ring_id, name='there')", ring_id=ring.id)
        yield reader


def test_peers_are_the_other_processes_that_live(ring: Ring, reader: Child) -> None:
    there = reader.ask("reader.peer_id")
    assert ring.peers() == [there]
    assert reader.ask("reader.peers()") == [ring.peer_id]
    with child("quick") as other:
        other.run("reader = Reader.join(ring_id)", ring_id=ring.id)
        assert ring.peers() == [there, other.ask("reader.peer_id")]
        other.kill()
        wait_until(lambda: ring.peers() == [there])
    with Reader.join(ring.id) as own:  # this process's own place
        assert own.peers() == [there]


def test_drain_returns_when_the_last_handle_was_opened(ring: Ring, reader: Child) -> None:
    ring.drain(timeout_s=0)  # nothing is on its way
    handles = [bytes(ring.share(pixels(seed), ring.peers())) for seed in range(3)]
    draining = threading.Thread(target=ring.drain, kwargs={"timeout_s": 20})
    draining.start()
    for handle in handles:
        assert draining.is_alive()
        reader.run("tensor = reader.open(handle)", handle=handle)
    draining.join(20)
    assert not draining.is_alive()


def test_drain_names_who_has_not_opened_what(ring: Ring, reader: Child) -> None:
    handle = ring.share(pixels(1), ring.peers())
    with pytest.raises(WaitTimeoutError, match=r"within 0.05 s; .*there"):
        ring.drain(timeout_s=0.05)
    assert ring.revoke(handle)
    ring.drain(timeout_s=0)


def test_a_forwarder_drains_what_it_sent(ring: Ring, reader: Child) -> None:
    with child("quick") as other:
        other.run("reader = Reader.join(ring_id)", ring_id=ring.id)
        reader.run("kept = reader.open(handle)", handle=bytes(ring.share(pixels(1), reader.ask("reader.peer_id"))))
        peer_id = other.ask("reader.peer_id")
        wire = reader.ask("bytes(reader.share(kept, peer_id))", peer_id=peer_id)
        reader.start("run", "reader.drain(timeout_s=20)")
        other.run("reader.open(wire)", wire=wire)
        reader.answer()


def test_nobody_waits_for_a_reader_that_has_died(ring: Ring, reader: Child) -> None:
    ring.share(pixels(1), ring.peers())
    reader.kill()
    ring.drain(timeout_s=20)
    wait_until(lambda: ring.statistics().blocks == 0)
