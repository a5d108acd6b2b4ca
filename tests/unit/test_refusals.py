"""What cannot be delivered or opened holds nobody up: its sender gets its block back while the reader lives on."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import pytest
import torch
import zmq

from shmtransport import (
    Channel,
    HandleError,
    Reader,
    Ring,
    SegmentError,
    SegmentNotFoundError,
    WaitTimeoutError,
)
from tests.peers import join_as_if_another_process
from tests.support import run_python, segment_names
from tests.unit.peers import blocks, die, opened, shared

NBYTES = 100_000


@pytest.fixture
def ring() -> Iterator[Ring]:
    with Ring.create(capacity="4MiB", segment="1MiB") as ring:
        yield ring


@pytest.fixture
def connect(tmp_path: Path) -> Iterator[Callable[..., zmq.Socket[bytes]]]:
    """Sockets of one context on one address, gone at the end."""
    with zmq.Context() as context, ExitStack() as sockets:

        def make(kind: int, *, identity: bytes = b"", limit: int = 1000) -> zmq.Socket[bytes]:
            socket: zmq.Socket[bytes] = sockets.enter_context(context.socket(kind))
            socket.setsockopt(zmq.LINGER, 0)
            socket.set_hwm(limit)
            if identity:
                socket.setsockopt(zmq.IDENTITY, identity)
            (socket.bind if kind == zmq.ROUTER else socket.connect)(f"ipc://{tmp_path}/socket")
            return socket

        yield make


def test_two_recipients_in_one_process_each_have_a_ticket_of_their_own(
    ring: Ring, connect: Callable[..., zmq.Socket[bytes]]
) -> None:
    writer = Channel(connect(zmq.ROUTER), ring)
    recipients = []
    for identity in (b"a", b"b"):
        recipient = Channel(connect(zmq.DEALER, identity=identity))
        recipient.send("here")
        assert writer.recv_from(timeout_s=5) == (identity, "here")
        recipients.append(recipient)
    for recipient in recipients:  # each reads the introduction, and answers
        with pytest.raises(WaitTimeoutError):
            recipient.recv(timeout_s=0.2)
    assert writer.join([b"a", b"b"], timeout_s=5)
    writer.send(torch.ones(NBYTES), to=[b"a", b"b"])
    first = recipients[0].recv(timeout_s=5)
    del first
    ring.attachment.core.settle()
    assert recipients[1].recv(timeout_s=5).sum() == NBYTES
    assert writer.statistics().handles == 2
    assert ring.attachment.core.settle() == 0
    for channel in (*recipients, writer):
        channel.close()


def test_a_send_to_a_full_peer_of_a_router_ends_at_its_deadline(connect: Callable[..., zmq.Socket[bytes]]) -> None:
    router = connect(zmq.ROUTER, limit=1)
    peers = [connect(zmq.DEALER, identity=identity, limit=1) for identity in (b"full", b"idle")]
    for peer in peers:
        peer.send(b"here")
    for _ in peers:
        router.recv_multipart()
    channel = Channel(router)

    def seconds_until_full() -> float:
        for _ in range(1000):
            start = time.monotonic()
            try:
                channel.send(torch.zeros(NBYTES), to=b"full", timeout_s=0.2)
            except WaitTimeoutError:
                return time.monotonic() - start
        raise AssertionError("it never was full")

    assert 0.2 <= seconds_until_full() < 2


def test_garbage_is_told_to_who_receives_and_never_to_who_sends(connect: Callable[..., zmq.Socket[bytes]]) -> None:
    router, peer = connect(zmq.ROUTER), connect(zmq.DEALER, identity=b"a")
    channel = Channel(router)
    peer.send(b"not ours")
    assert router.poll(5000)
    channel.send("to a", to=b"a")
    with pytest.raises(HandleError, match="something else"):
        channel.recv(timeout_s=5)
    peer.send(bytes((0xB7, 1, 5)) + b"\xa2\xff\xfe")  # an object whose text is no UTF-8
    with pytest.raises(HandleError, match="not msgpack"):
        channel.recv(timeout_s=5)
    with Channel(peer) as sane:
        sane.send("to the router")
        assert channel.recv_from(timeout_s=5) == (b"a", "to the router")
    channel.close()


def test_a_segment_that_cannot_be_mapped_releases_the_sender_and_turns_the_reader_inline(
    ring: Ring, monkeypatch: pytest.MonkeyPatch
) -> None:
    with join_as_if_another_process(ring.id) as reader:
        held = [ring.put(torch.zeros(1 << 20, dtype=torch.uint8)) for _ in range(2)]
        handle = shared(ring, held[1], reader)

        def fail(ring_id: str, number: int) -> AbstractContextManager[int]:
            raise SegmentNotFoundError(f"no segment {number} of {ring_id}")

        with monkeypatch.context() as patch:
            patch.setattr(ring.attachment.backing, "opened", fail)
            with pytest.raises(SegmentError, match="served inline from now on"):
                reader.open(handle)
        held.clear()
        assert ring.attachment.core.settle() == 0
        assert blocks(ring) == 0
        assert ring.share(ring.put(torch.zeros(NBYTES)), reader).nbytes == 4 * NBYTES
        assert ring.statistics().inline == {"unmappable": 1}


def test_a_closed_channel_refuses_what_it_has_not_read(ring: Ring, connect: Callable[..., zmq.Socket[bytes]]) -> None:
    writer, recipient = Channel(connect(zmq.ROUTER), ring), Channel(connect(zmq.DEALER, identity=b"a"))
    recipient.send("here")
    writer.recv(timeout_s=5)
    with pytest.raises(WaitTimeoutError):
        recipient.recv(timeout_s=0.2)
    assert writer.join(b"a", timeout_s=5)
    writer.send("first", to=b"a")
    writer.send(torch.ones(NBYTES), to=b"a")
    while len(recipient._exchange.inbox) < 2:  # a send takes in what has come
        recipient.send("ping")
    with Reader.join(ring.id):  # the process stays in the ring, so its death settles nothing
        assert blocks(ring) == 1
        recipient.close()
        ring.attachment.core.settle()
        assert blocks(ring) == 0
    writer.close()


@pytest.mark.posix  # by a name: where there is none a process that lost its descriptors can reap no more
def test_a_stray_closing_of_all_descriptors_leaves_locks_and_reaping_as_they_were() -> None:
    run_python(
        """
        import os, torch
        from shmtransport import Ring
        from tests.peers import join_as_if_another_process
        from tests.unit.peers import die, shared

        with Ring.create(capacity="4MiB", segment="1MiB") as ring:
            living, dead = join_as_if_another_process(ring.id), join_as_if_another_process(ring.id)
            handle = shared(ring, ring.put(torch.ones(100_000)), dead)
            os.closerange(3, 1000)
            die(dead)
            assert ring.attachment.core.is_alive(0) and ring.attachment.core.is_alive(1)
            assert not ring.attachment.core.is_alive(2)
            assert ring.attachment.core.settle() == 0, "the dead reader's ticket"
            assert ring.reap() == 1
            living.close()
            dead.close()
        assert not [name for name in os.listdir("/dev/shm") if ring.id in name]
        """
    )


@pytest.mark.posix
def test_a_joiner_that_finds_the_writer_gone_removes_the_names(ring: Ring) -> None:
    ring.attachment.core.abandon()
    assert segment_names() >= {f"{ring.attachment.backing.prefix(ring.id)}0"}
    with pytest.raises(SegmentNotFoundError, match="writer has left"):
        join_as_if_another_process(ring.id)
    assert not [name for name in segment_names() if ring.id in name]


def test_a_waiting_writer_still_hears_signals() -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with Ring.create(capacity="1MiB", on_full="block", timeout_s=30) as ring:
            held = ring.put(torch.zeros(1 << 20, dtype=torch.uint8))
            threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGALRM)).start()
            start = time.monotonic()
            with pytest.raises(KeyboardInterrupt):
                ring.put(torch.zeros(NBYTES))
            assert time.monotonic() - start < 5
            del held
    finally:
        signal.signal(signal.SIGALRM, before)


def test_a_revoke_after_the_last_open_answers_false_even_before_anything_settled(ring: Ring) -> None:
    with join_as_if_another_process(ring.id) as reader:
        tensor = ring.put(torch.ones(NBYTES))
        handle = shared(ring, tensor, reader)
        got = opened(reader, handle)
        assert not ring.revoke(handle)
        assert ring.statistics().writer.revoked == 0
        del got


def test_a_reader_that_closes_while_tensors_live_is_sent_the_bytes_and_settles_what_was_on_its_way(ring: Ring) -> None:
    reader = join_as_if_another_process(ring.id)
    tensor = ring.put(torch.ones(NBYTES))
    kept = opened(reader, shared(ring, tensor, reader))
    shared(ring, tensor, reader)
    peer_id = reader.peer_id
    reader.close()
    assert ring.attachment.core.settle() == 0
    assert ring.share(tensor, peer_id).nbytes == 4 * NBYTES
    assert ring.statistics().inline == {"not_joined": 1}
    del tensor
    assert blocks(ring) == 1
    assert [process.leased_blocks for process in ring.statistics().processes] == [0, 1]
    assert kept.sum() == NBYTES
    del kept
    assert blocks(ring) == 0


def test_a_dead_reader_is_sent_the_bytes_at_once(ring: Ring) -> None:
    reader = join_as_if_another_process(ring.id)
    die(reader)
    assert ring.share(ring.put(torch.ones(NBYTES)), reader.peer_id).nbytes == 4 * NBYTES
    assert ring.statistics().inline == {"not_joined": 1}
