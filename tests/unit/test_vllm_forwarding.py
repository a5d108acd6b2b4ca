"""Forwarding to workers, without vLLM: what pickles as a handle, where, and what comes back when it does not go out."""

import copy
import logging
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from shmtransport import Reader, Ring
from shmtransport.adapters.rings import JoinedRings
from shmtransport.adapters.vllm import worker
from shmtransport.adapters.vllm.forwarding import Broadcast, ForwardedTensor, Workers, module
from shmtransport.errors import HandleError
from shmtransport.handles import VERSION
from tests.peers import join_as_if_another_process
from tests.support import wait_until
from tests.unit.peers import shared

PIXELS = torch.arange(64 << 10, dtype=torch.float32)


class Executor:
    """As vLLM's: ``answers`` are what its workers say when they are asked to join."""

    def __init__(self, answers: Callable[[str], list[Any]], local: int = 2, remote: int = 0) -> None:
        self.rpc_broadcast_mq = SimpleNamespace(n_local_reader=local, n_remote_reader=remote)
        self.asked: list[str] = []
        self._answers = answers

    def collective_rpc(self, method: object, args: tuple[str, int]) -> list[Any]:
        assert method is worker.join_ring
        self.asked.append(args[0])
        return self._answers(args[0])


@pytest.fixture
def ring() -> Iterator[Ring]:
    with Ring.create(capacity="4MiB", segment="4MiB") as ring:
        yield ring


@pytest.fixture
def readers(ring: Ring) -> Iterator[list[Reader]]:
    """Two workers."""
    with join_as_if_another_process(ring.id) as one, join_as_if_another_process(ring.id) as other:
        yield [one, other]


@pytest.fixture
def rings(ring: Ring, monkeypatch: pytest.MonkeyPatch) -> Iterator[JoinedRings]:
    monkeypatch.setattr(Reader, "join", join_as_if_another_process)
    joined = JoinedRings("EngineCore", writable=False)
    assert "peer_id" in joined.join(ring.id, VERSION)
    yield joined
    joined.close()


@pytest.fixture
def workers(ring: Ring, readers: list[Reader], rings: JoinedRings) -> Workers:
    made = Workers(rings)
    made.introduce(Executor(lambda _: [{"peer_id": reader.peer_id} for reader in readers]), ring.id)
    return made


Decode = Callable[[], torch.Tensor]


@pytest.fixture
def decode(ring: Ring, rings: JoinedRings, workers: Workers) -> Decode:
    """What the EngineCore holds of a request: the tensor, forwarded by handle."""

    def decoded() -> torch.Tensor:
        handle = shared(ring, ring.put(PIXELS), rings.reader(bytes.fromhex(ring.id)))
        held = workers.forwarded(rings.open(handle), bytes.fromhex(ring.id))
        assert type(held) is ForwardedTensor
        return held

    return decoded


def pickled_in_a_message(workers: Workers | None, tensor: torch.Tensor) -> bytes:
    sent: bytes = Broadcast(workers).run(lambda: pickle.dumps({"pixels": [tensor]}, 5))
    return sent


def opened_by(reader: Reader, monkeypatch: pytest.MonkeyPatch, sent: bytes) -> torch.Tensor:
    """As the worker with this place in the ring reads the message."""
    rings = JoinedRings("worker", writable=False)
    rings._readers[bytes.fromhex(reader.id)] = reader
    monkeypatch.setattr(worker, "_rings", [rings])
    (pixels,) = pickle.loads(sent)["pixels"]
    assert type(pixels) is torch.Tensor
    return pixels


def test_all_workers_open_one_handle_and_the_core_copies_nothing(
    ring: Ring, readers: list[Reader], workers: Workers, decode: Decode, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = pickled_in_a_message(workers, decode())
    assert len(sent) < 400
    for reader in readers:
        assert torch.equal(opened_by(reader, monkeypatch, sent), PIXELS)
    assert ring.statistics().writer.writes == 1


def test_the_block_stays_for_a_worker_that_reads_late_and_goes_with_the_last(
    ring: Ring, readers: list[Reader], workers: Workers, decode: Decode, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = decode()
    sent = pickled_in_a_message(workers, decoded)
    first = opened_by(readers[0], monkeypatch, sent)
    del decoded, first  # the EngineCore forgets the request
    assert torch.equal(opened_by(readers[1], monkeypatch, sent), PIXELS)
    wait_until(lambda: ring.statistics().blocks == 0)


@pytest.mark.parametrize("take", [pickle.dumps, copy.deepcopy, copy.copy], ids=["pickle", "deepcopy", "copy"])
def test_outside_of_a_message_to_the_workers_it_is_copied_as_an_ordinary_tensor(
    ring: Ring, decode: Decode, take: Callable[[torch.Tensor], Any]
) -> None:
    decoded = decode()
    assert type(decoded[:16]) is torch.Tensor  # as all that is computed from it
    taken = take(decoded)
    copied = pickle.loads(taken) if isinstance(taken, bytes) else taken
    assert type(copied) is torch.Tensor
    assert torch.equal(copied, PIXELS)
    assert not ring.holds(copied)


def test_a_queue_whose_workers_have_not_joined_gets_the_bytes_of_the_view_only(decode: Decode) -> None:
    sent = pickled_in_a_message(None, decode())
    assert PIXELS.nbytes < len(sent) < PIXELS.nbytes + 4096
    assert torch.equal(pickle.loads(sent)["pixels"][0], PIXELS)


def test_a_worker_that_is_gone_makes_it_inline(
    ring: Ring, readers: list[Reader], workers: Workers, decode: Decode
) -> None:
    readers[1].attachment.core.abandon()
    ring.reap()
    assert len(pickled_in_a_message(workers, decode())) > PIXELS.nbytes


def test_a_message_that_is_not_sent_gives_its_handles_back(ring: Ring, workers: Workers, decode: Decode) -> None:
    def fails() -> None:
        assert len(pickle.dumps(decode(), 5)) < 400
        raise TimeoutError

    with pytest.raises(TimeoutError):
        Broadcast(workers).run(fails)
    assert Broadcast.now() is None
    wait_until(lambda: ring.statistics().blocks == 0)


def test_workers_of_an_engine_without_a_queue_or_on_another_host_are_not_asked(ring: Ring, rings: JoinedRings) -> None:
    elsewhere = Executor(lambda _: [], local=1, remote=1)
    for executor in (None, SimpleNamespace(), elsewhere):
        workers = Workers(rings)
        workers.introduce(executor, ring.id)
        tensor = torch.empty(3)
        assert workers.forwarded(tensor, bytes.fromhex(ring.id)) is tensor
    assert elsewhere.asked == []


def no_such_module(ring_id: str) -> list[Any]:
    raise RuntimeError("Worker failed with error 'No module named shmtransport'")


@pytest.mark.parametrize(
    ("answers", "says"),
    [
        (no_such_module, "No module named shmtransport"),
        (lambda _: [{"peer_id": "0" * 32}, {"error": "not here"}], "not here"),
        (lambda _: [{"peer_id": "0" * 32}], "1 of 2 answered"),
    ],
    ids=["fails", "refuses", "too few"],
)
def test_workers_that_do_not_join_are_served_inline_with_one_warning(
    ring: Ring, rings: JoinedRings, caplog: pytest.LogCaptureFixture, answers: Callable[[str], list[Any]], says: str
) -> None:
    workers, executor = Workers(rings), Executor(answers)
    with caplog.at_level(logging.WARNING, logger="vllm"):
        workers.introduce(executor, ring.id)
    assert [says in record.getMessage() for record in caplog.records] == [True]
    tensor = torch.empty(3)
    assert workers.forwarded(tensor, bytes.fromhex(ring.id)) is tensor
    assert list(vars(executor.rpc_broadcast_mq)) == ["n_local_reader", "n_remote_reader"]


def test_a_worker_joins_with_its_own_settings(ring: Ring, monkeypatch: pytest.MonkeyPatch) -> None:
    joined: list[JoinedRings] = []
    monkeypatch.setattr(worker, "_rings", joined)
    monkeypatch.setattr(Reader, "join", join_as_if_another_process)
    assert "peer_id" in worker.join_ring(SimpleNamespace(rank=1), ring.id, VERSION)
    assert [process.name for process in ring.statistics().processes] == ["", "worker 1"]
    assert "version" in worker.join_ring(None, ring.id, VERSION + 1)["error"]
    monkeypatch.setenv("SHMTRANSPORT_ENABLE", "0")
    assert "SHMTRANSPORT_ENABLE" in worker.join_ring(None, ring.id, VERSION)["error"]
    monkeypatch.setenv("SHMTRANSPORT_ENABLE", "perhaps")
    assert "SHMTRANSPORT_ENABLE" in worker.join_ring(None, ring.id, VERSION)["error"]
    joined[0].close()


def test_a_worker_that_joined_nothing_refuses_a_handle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "_rings", [])
    with pytest.raises(HandleError, match="joined no ring"):
        worker.open_handle(b"")


def test_the_seam_is_the_queues_own_enqueue() -> None:
    (seam,) = module().seams
    assert seam.wrapper is not None
    queue = SimpleNamespace()
    assert seam.wrapper(lambda *args: (Broadcast.now() is not None, *args), queue, "object") == (True, queue, "object")


def test_what_a_ring_has_grown_by_is_mapped_before_a_handle_needs_it(
    rings: JoinedRings,
) -> None:
    with Ring.create(capacity="2MiB", segment="1MiB") as growing:
        assert "peer_id" in rings.join(growing.id, VERSION)
        held = growing.put(torch.empty(1 << 20, dtype=torch.uint8))
        assert growing.grow_ahead()
        # The second segment, mapped by the writer and by the reader.
        wait_until(lambda: Path("/proc/self/maps").read_text().count(f"{growing.id}-2") == 2)
        del held
