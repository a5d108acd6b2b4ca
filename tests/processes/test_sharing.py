"""Tensors between processes that were forked, spawned, or never met: the same bytes everywhere, written once."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from shmtransport import Handle, Inline, Ring
from tests.processes.children import KINDS, Child, child, digest, pixels
from tests.support import wait_until

MIB = 1 << 20


@pytest.fixture(scope="module", params=KINDS)
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[Child, Child]]:
    """Two processes of one kind, with which all tests of this module talk."""
    with child(request.param) as one, child(request.param) as two:
        yield one, two


@pytest.fixture
def engine(pair: tuple[Child, Child]) -> Child:
    return pair[0]


@pytest.fixture
def worker(pair: tuple[Child, Child]) -> Child:
    return pair[1]


@pytest.fixture
def ring() -> Iterator[Ring]:
    with Ring.create(capacity="32MiB", segment="8MiB", on_full="raise", name="frontend") as ring:
        yield ring


def joined(process: Child, ring_id: str) -> str:
    """The peer id of a child that joins."""
    process.run("reader = Reader.join(ring_id, name='engine')", ring_id=ring_id)
    peer_id = process.ask("reader.peer_id")
    assert isinstance(peer_id, str)
    return peer_id


def left(process: Child) -> None:
    process.run("tensor = again = None; reader.close(); del reader; gc.collect()")


@pytest.mark.parametrize(
    "tensor",
    [
        pixels(1, 8 * MIB),
        pixels(2, MIB).to(torch.bfloat16),
        torch.arange(7, dtype=torch.int8),
        torch.tensor(3.5),
        torch.randn(64, 48, dtype=torch.complex64).mT,
        np.random.default_rng(3).standard_normal((3, 50, 70)),
        np.arange(100, dtype=np.float16)[::3],
    ],
    ids=["8 MiB", "bfloat16", "7 bytes", "0-d", "transposed complex", "float64 array", "strided float16 array"],
)
def test_a_tensor_is_the_same_in_another_process(ring: Ring, engine: Child, tensor: torch.Tensor) -> None:
    handle = ring.share(tensor, joined(engine, ring.id))
    assert isinstance(handle, Handle)
    assert engine.ask("digest(reader.open(wire))", wire=bytes(handle)) == digest(tensor)
    writer, reader = ring.statistics().processes
    assert (writer.writes, writer.copied_nbytes) == (1, tensor.nbytes)
    assert (reader.pid, reader.opened, reader.opened_nbytes) == (engine.pid, 1, tensor.nbytes)
    wait_until(lambda: ring.statistics().blocks == 0)
    left(engine)


def test_a_third_process_gets_a_forwarded_handle_and_the_bytes_were_written_once(
    ring: Ring, engine: Child, worker: Child
) -> None:
    source = pixels(4)
    engine_id, worker_id = joined(engine, ring.id), joined(worker, ring.id)
    wire = bytes(ring.share(source, engine_id))
    engine.run("tensor = reader.open(wire)", wire=wire)
    forwarded = engine.ask("bytes(reader.share(tensor[1:3], worker_id))", worker_id=worker_id)
    assert len(forwarded) < 128
    engine.run("tensor = None")  # nobody has a tensor now, only a handle is on its way
    assert ring.statistics().blocks == 1
    assert worker.ask("digest(reader.open(wire))", wire=forwarded) == digest(source[1:3])
    assert ring.statistics().writer.writes == 1
    wait_until(lambda: ring.statistics().blocks == 0)
    left(engine)
    left(worker)


def test_one_write_and_one_ticket_serve_two_processes(ring: Ring, engine: Child, worker: Child) -> None:
    source = pixels(5)
    handle = ring.share(source, [joined(engine, ring.id), joined(worker, ring.id)])
    for process in (engine, worker):
        assert process.ask("digest(reader.open(wire))", wire=bytes(handle)) == digest(source)
    writer = ring.statistics().writer
    assert (writer.writes, writer.shared, writer.copied_nbytes) == (1, 1, source.nbytes)
    wait_until(lambda: ring.statistics().blocks == 0)
    left(engine)
    left(worker)


def test_several_writers_send_to_one_reader(engine: Child, worker: Child, ring: Ring) -> None:
    worker.run("made = Ring.create('8MiB', name='worker')")
    theirs = worker.ask("made.id")
    engine.run("readers = [Reader.join(ring_id) for ring_id in ring_ids]", ring_ids=[ring.id, theirs])
    ours_id, theirs_id = engine.ask("[reader.peer_id for reader in readers]")
    wires = [bytes(ring.share(pixels(6), ours_id)), worker.ask("bytes(made.share(pixels(7), peer))", peer=theirs_id)]
    digests = engine.ask("[digest(reader.open(wire)) for reader, wire in zip(readers, wires)]", wires=wires)
    assert digests == [digest(pixels(6)), digest(pixels(7))]
    engine.run("readers.clear(); gc.collect()")
    worker.run("made.close(); del made")


def test_what_a_reader_sees_is_the_writers_memory_in_place(ring: Ring, engine: Child) -> None:
    tensor = ring.put(torch.zeros(1000))
    engine.run("tensor = reader.open(wire)", wire=bytes(ring.share(tensor, joined(engine, ring.id))))
    tensor[500] = 7.0
    assert engine.ask("tensor[500].item()") == 7.0
    left(engine)


def test_a_reader_maps_segments_that_were_added_after_it_joined(ring: Ring, engine: Child) -> None:
    peer_id = joined(engine, ring.id)
    held = [ring.put(pixels(seed, 7 * MIB)) for seed in range(4)]
    assert ring.statistics().segments == 4
    wires = [bytes(ring.share(tensor, peer_id)) for tensor in held]
    assert engine.ask("[digest(reader.open(wire)) for wire in wires]", wires=wires) == [digest(t) for t in held]
    left(engine)


def test_a_process_that_has_not_joined_is_sent_the_bytes(ring: Ring, engine: Child) -> None:
    source = pixels(8)
    sent = ring.share(source, "5" * 32)
    assert isinstance(sent, Inline)
    joined(engine, ring.id)
    assert engine.ask("digest(reader.open(wire))", wire=bytes(sent)) == digest(source)
    left(engine)


def test_blocks_are_reused_for_thousands_of_messages_and_every_one_arrives(ring: Ring, engine: Child) -> None:
    peer_id = joined(engine, ring.id)
    sources = [pixels(seed, 64 << 10) for seed in range(8)]
    expected = [digest(source) for source in sources]
    for _ in range(40):
        wires = [bytes(ring.share(source, peer_id)) for source in sources * 3]
        assert engine.ask("[digest(reader.open(wire)) for wire in wires]", wires=wires) == expected * 3
    statistics = ring.statistics()
    assert statistics.segments == 1
    assert statistics.writer.writes == 960
    assert statistics.inline == {}
    left(engine)


def test_a_reader_that_writes_in_place_dies_and_the_bytes_stay(ring: Ring) -> None:
    source = pixels(9)
    backed = ring.put(source)
    with child("quick") as victim:
        peer_id = joined(victim, ring.id)
        wire = bytes(ring.share(backed, peer_id))
        assert victim.run_until_death("reader.open(wire).zero_()", wire=wire) == -11
    assert digest(backed) == digest(source)


@pytest.mark.posix  # what is sealed cannot be mapped writable: tests/processes/test_memfd.py
def test_joined_writable_a_reader_can_write_in_place(ring: Ring, engine: Child) -> None:
    backed = ring.put(torch.zeros(1000))
    engine.run("reader = Reader.join(ring_id, writable=True)", ring_id=ring.id)
    wire = bytes(ring.share(backed, engine.ask("reader.peer_id")))
    engine.run("reader.open(wire)[5] = 2.5", wire=wire)
    assert backed[5] == 2.5
    left(engine)


def test_a_join_in_one_process_twice_is_one_place_in_the_ring(ring: Ring, engine: Child) -> None:
    first = joined(engine, ring.id)
    assert engine.ask("Reader.join(ring_id).peer_id", ring_id=ring.id) == first
    assert len(ring.statistics().processes) == 2
    left(engine)
    wait_until(lambda: len(ring.statistics().processes) == 1)
