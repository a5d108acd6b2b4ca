"""Whoever dies, and however: what it held comes back, nobody reads wrong bytes, and nothing stays in /dev/shm."""

import os
import signal
import statistics
import time
from collections.abc import Iterator

import pytest

from shmtransport import (
    Handle,
    Reader,
    Ring,
    RingFullError,
    SegmentNotFoundError,
    StaleHandleError,
    WaitTimeoutError,
    sweep,
)
from tests.peers import is_waiting
from tests.processes.children import Child, child, digest, names_of, pixels
from tests.support import BACKING, run_python, segment_names, wait_until

MIB = 1 << 20


@pytest.fixture
def engine() -> Iterator[Child]:
    with child("quick") as engine:
        yield engine


def joined(process: Child, ring_id: str) -> str:
    process.run("reader = Reader.join(ring_id, name='engine')", ring_id=ring_id)
    peer_id = process.ask("reader.peer_id")
    assert isinstance(peer_id, str)
    return peer_id


# -- a reader ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("opened", [True, False], ids=["open tensors", "unopened handles"])
@pytest.mark.parametrize("on_full", ["raise", "inline", "block"])
def test_the_next_put_gets_the_room_of_a_killed_reader(engine: Child, on_full: str, opened: bool) -> None:
    with Ring.create(capacity="4MiB", segment="2MiB", on_full=on_full, timeout_s=20) as ring:  # type: ignore[arg-type]
        peer_id = joined(engine, ring.id)
        wires = [bytes(ring.share(pixels(seed, 2 * MIB), peer_id)) for seed in range(2)]
        if opened:
            engine.run("held = [reader.open(wire) for wire in wires]", wires=wires)
        assert ring.statistics().blocks == 2
        engine.kill()
        started = time.monotonic()
        backed = [ring.put(pixels(seed, 2 * MIB)) for seed in (5, 6)]
        assert time.monotonic() - started < 5
        assert all(ring.holds(tensor) for tensor in backed)
        assert [digest(tensor) for tensor in backed] == [digest(pixels(seed, 2 * MIB)) for seed in (5, 6)]
        assert ring.statistics().inline == {}


@pytest.mark.parametrize("opened", [True, False], ids=["open tensors", "unopened handles"])
def test_a_blocked_writer_goes_on_when_the_only_reader_is_killed(engine: Child, opened: bool) -> None:
    """SIGKILL wakes nobody: the writer sees it within its slice of 50 ms."""
    with child("quick") as writer:
        writer.run("ring = Ring.create('2MiB', segment='2MiB', on_full='block', timeout_s=20)")
        ring_id = writer.ask("ring.id")
        peer_id = joined(engine, ring_id)
        wire = writer.ask("bytes(ring.share(pixels(1, 2 << 20), peer_id))", peer_id=peer_id)
        if opened:
            engine.run("held = reader.open(wire)", wire=wire)
        writer.start("ask", "digest(ring.put(pixels(2, 2 << 20)))")
        wait_until(lambda: is_waiting(ring_id))
        killed = time.monotonic()
        engine.kill()
        assert writer.answer(5) == digest(pixels(2, 2 * MIB))
        assert time.monotonic() - killed < 1
        assert writer.ask("ring.statistics().writer.reaps") == 1
        writer.run("ring.close()")


def test_a_release_in_another_process_wakes_the_blocked_writer_well_before_its_slice_ends(engine: Child) -> None:
    with child("quick") as writer:
        writer.run("ring = Ring.create('1MiB', segment='1MiB', on_full='block', timeout_s=20)")
        ring_id = writer.ask("ring.id")
        peer_id = joined(engine, ring_id)
        waited = []
        for _ in range(21):
            wire = writer.ask("bytes(ring.share(torch.ones(1 << 18), peer_id))", peer_id=peer_id)
            engine.run("held = reader.open(wire)", wire=wire)
            writer.start("run", "held = ring.put(torch.zeros(1 << 18)); woken = time.monotonic(); held = None")
            wait_until(lambda: is_waiting(ring_id))
            released = engine.ask("(time.monotonic(), globals().update(held=None))")[0]
            writer.answer()
            waited.append(writer.ask("woken") - released)
        assert statistics.median(waited) < 0.020  # 50 ms is a slice; a wake-up and the put take about 1 ms
        writer.run("ring.close()")


@pytest.mark.parametrize("opened", [True, False], ids=["open tensors", "unopened handles"])
@pytest.mark.parametrize("on_full", ["raise", "block"])
def test_a_paused_reader_keeps_what_it_holds_and_the_writers_error_names_it(
    engine: Child, on_full: str, opened: bool
) -> None:
    with Ring.create(capacity="2MiB", segment="2MiB", on_full=on_full, timeout_s=0.3) as ring:  # type: ignore[arg-type]
        peer_id = joined(engine, ring.id)
        wires = [bytes(ring.share(pixels(seed), peer_id)) for seed in range(2)]
        written = time.monotonic()
        if opened:
            engine.run("held = [reader.open(wire) for wire in wires]", wires=wires)
            wait_until(lambda: ring.statistics().writer.leased_blocks == 0)
        with engine.stopped():
            with pytest.raises((RingFullError, WaitTimeoutError)) as caught:
                ring.put(pixels(2))
            age_s = time.monotonic() - written
            assert ring.reap() == 0
        assert caught.type is (RingFullError if on_full == "raise" else WaitTimeoutError)
        what = f"holds {2 * MIB} bytes in 2 blocks" if opened else f"has not opened 2 handles of {2 * MIB} bytes"
        place = f"reader engine (index 1, pid {engine.pid}, alive) {what}, the oldest for "
        message = str(caught.value)
        assert place in message
        said_s = float(message.partition(place)[2].partition(" s")[0])
        assert 0.3 * (on_full == "block") <= said_s <= age_s + 1
        if not opened:
            engine.run("held = [reader.open(wire) for wire in wires]", wires=wires)
        assert engine.ask("[digest(tensor) for tensor in held]") == [digest(pixels(seed)) for seed in range(2)]


def test_a_new_reader_on_a_dead_ones_index_starts_clean(engine: Child) -> None:
    with Ring.create(capacity="4MiB", segment="4MiB") as ring:
        peer_id = joined(engine, ring.id)
        wires = [bytes(ring.share(pixels(seed), peer_id)) for seed in range(2)]
        engine.run("tensor = reader.open(wires[0])", wires=wires)
        engine.kill()
        with child("quick") as heir:
            heir_id = joined(heir, ring.id)
            assert heir_id != peer_id
            assert [process.peer_id for process in ring.statistics().processes][1:] == [heir_id]
            wait_until(lambda: ring.statistics().blocks == 0)
            heir.run(
                "for wire in wires:\n"
                "    try: reader.open(wire)\n"
                "    except StaleHandleError: continue\n"
                "    raise AssertionError('opened a handle of the dead')",
                wires=wires,
            )
            wire = bytes(ring.share(pixels(7), heir_id))
            assert heir.ask("digest(reader.open(wire))", wire=wire) == digest(pixels(7))


def test_a_dead_forwarders_handles_are_leases_or_stale(engine: Child) -> None:
    with Ring.create(capacity="4MiB", segment="4MiB") as ring, child("quick") as worker:
        backed = ring.put(pixels(1))
        peer_id, worker_id = joined(engine, ring.id), joined(worker, ring.id)
        engine.run("tensor = reader.open(wire)", wire=bytes(ring.share(backed, peer_id)))
        forwarded = engine.ask("bytes(reader.share(tensor, worker_id))", worker_id=worker_id)
        engine.kill()
        assert worker.ask("digest(reader.open(wire))", wire=forwarded) == digest(pixels(1))  # the writer holds it
        del backed
        ring.reap()
        wait_until(lambda: ring.statistics().blocks == 0)
        with pytest.raises(AssertionError, match="StaleHandleError"):
            worker.run("reader.open(wire)", wire=forwarded)


def test_a_stale_handle_of_a_reused_block_never_gives_other_bytes(engine: Child) -> None:
    with Ring.create(capacity="1MiB", segment="1MiB", entries=1, on_full="raise") as ring:
        peer_id = joined(engine, ring.id)
        stale = ring.share(pixels(1, 1000), peer_id)
        assert isinstance(stale, Handle)
        assert ring.revoke(stale)
        held = ring.put(pixels(2, 1000))
        fresh = bytes(ring.share(held, peer_id))
        with pytest.raises(AssertionError, match=StaleHandleError.__name__):
            engine.run("reader.open(wire)", wire=bytes(stale))
        assert engine.ask("digest(reader.open(wire))", wire=fresh) == digest(held)


# -- the writer and everybody -----------------------------------------------------------------------------------


@pytest.mark.posix
def test_readers_of_a_killed_writer_read_on_and_the_last_one_out_removes_the_names(engine: Child) -> None:
    with child("quick") as writer:
        writer.run("ring = Ring.create('8MiB', segment='4MiB')")
        ring_id = writer.ask("ring.id")
        reader = Reader.join(ring_id)
        ids = [reader.peer_id, joined(engine, ring_id)]
        wires = [writer.ask("bytes(ring.share(pixels(seed), ids))", seed=seed, ids=ids) for seed in range(3)]
        ours = [reader.open(wire) for wire in wires[:2]]
        engine.run("held = [reader.open(wire) for wire in wires[:2]]", wires=wires)
        writer.kill()
    expected = [digest(pixels(seed)) for seed in range(2)]
    assert [digest(tensor) for tensor in ours] == expected
    assert engine.ask("[digest(tensor) for tensor in held]") == expected
    assert digest(reader.open(wires[2])) == digest(pixels(2))  # a dead writer's bit still covers it
    assert digest(reader.open(wires[0])) == expected[0]
    forwarded = reader.share(ours[0], ids[1])
    assert engine.ask("digest(reader.open(wire))", wire=bytes(forwarded)) == expected[0]
    assert ring_id not in sweep()
    with pytest.raises(AssertionError, match=SegmentNotFoundError.__name__), child("quick") as late:
        late.run("Reader.join(ring_id)", ring_id=ring_id)
    engine.run("held.clear(); reader.close(); del reader; gc.collect()")
    assert len(names_of(ring_id)) >= 2
    reader.close()
    assert [digest(tensor) for tensor in ours] == expected
    ours.clear()
    assert names_of(ring_id) == []


def created_and_closed() -> bool:
    Ring.create(capacity="64KiB").close()
    return True


@pytest.mark.parametrize("remover", ["the next ring", "a sweep", "an unrelated process"])
def test_what_everybody_left_behind_when_killed_is_removed(engine: Child, remover: str) -> None:
    with child("quick") as writer:
        writer.run("ring = Ring.create('8MiB', segment='1MiB'); held = [ring.put(pixels(s)) for s in range(5)]")
        ring_id = writer.ask("ring.id")
        peer_id = joined(engine, ring_id)
        engine.run(
            "held = [reader.open(wire) for wire in wires]",
            wires=[writer.ask("bytes(ring.share(held[0], peer_id))", peer_id=peer_id)],
        )
        assert len(names_of(ring_id)) == (6 if BACKING == "posix" else 1)
        os.kill(writer.pid, signal.SIGKILL)
        engine.kill()
        writer.wait()
    if remover == "the next ring":
        wait_until(lambda: created_and_closed() and not names_of(ring_id), 1.0)
    elif remover == "a sweep":
        wait_until(lambda: ring_id in sweep(), 1.0)
    else:
        run_python("import shmtransport; shmtransport.sweep()")
    assert names_of(ring_id) == []


DYING = """
import types, shmtransport.attachment as attachment, shmtransport.segment as segment, shmtransport.segment.backing

def die(*arguments, **named):
    os.kill(os.getpid(), signal.SIGKILL)

class Core:  # as _core, but for one call
    def __getattr__(self, name):
        return types.SimpleNamespace(create=die) if name == "Attachment" else getattr(shmtransport._core, name)

grow = attachment.Attachment.grow

def grow_and_die(self, nbytes):
    grow(self, nbytes)
    die()
"""
STEPS = {
    "with an empty control segment": "attachment._core = Core()",
    "with an empty data segment": "segment.backing.Backing.reserve = die",
    "without a data segment": "attachment.Attachment.grow = die",
    "before it is published": "attachment.Attachment.grow = grow_and_die",
}


@pytest.mark.posix
@pytest.mark.parametrize("step", STEPS)
def test_a_writer_killed_while_it_creates_leaves_nothing_that_a_sweep_does_not_remove(engine: Child, step: str) -> None:
    before = segment_names()
    assert engine.run_until_death(f"{DYING}\n{STEPS[step]}\nRing.create('1MiB')") == -signal.SIGKILL
    left = {name.split("-")[2] for name in segment_names() - before}
    assert len(left) == 1
    wait_until(lambda: left <= set(sweep()), 1.0)
    assert names_of(left.pop()) == []
