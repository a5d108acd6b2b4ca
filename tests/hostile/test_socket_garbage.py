"""What comes out of a socket is an object or a typed error of `take`, in proportion: see `socket_garbage`.

Bodies that hypothesis makes up and damages are in tests/property/test_codec.py, one piece of garbage through a real
socket in tests/unit/test_refusals.py.
"""

import asyncio
import contextlib
import random
import resource
from collections import Counter
from pathlib import Path

import msgspec
import pytest
import torch
import zmq
import zmq.asyncio

from shmtransport import Channel, Handle, HandleError, Ring
from shmtransport.asyncio import Channel as AsyncChannel
from shmtransport.exchange import Exchange
from shmtransport.messages import AGAIN, JOINED, OBJECT, REFUSED, RING, Answer, envelope
from tests.hostile import socket_garbage
from tests.hostile.conftest import Record
from tests.hostile.socket_garbage import PEER, greedy, messages, victim
from tests.hostile.trials import Mark, Outcome, trial

ALLOWED_NBYTES = 256 << 20


@pytest.mark.timeout(1800)
def test_no_message_escapes_from_hearing_nor_comes_out_of_taking_untyped(
    full: bool, rng: random.Random, record: Record
) -> None:
    count = 1_000_000 if full else 40_000
    outcome = socket_garbage.campaign(rng.randrange(1 << 32), count)
    record(count, outcome)
    assert outcome["fine"] > 0
    assert set(outcome) <= {"fine", *(error.__name__ for error in socket_garbage.ANSWERS)}


def size_of_this_process() -> int:
    """In bytes of address space."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


HARMLESS = {"a handle 60000 times", "a tensor as a key", "an inline tensor of no elements in 2^62 rows"}
GREEDY = list(greedy(b"", b"", Handle(bytes(16), 0, 0, 0, 0, 0, (1,), 0, 0, 0)))


@pytest.mark.parametrize("name", GREEDY)
def test_a_message_takes_memory_and_time_in_proportion_to_its_length(name: str) -> None:
    def swallow(mark: Mark) -> Outcome:
        outcome: Outcome = Counter()
        with victim() as heard:
            handle = heard.ring.share(heard.ring.put(torch.zeros(9)), heard.ring.peer_id)
            assert isinstance(handle, Handle)
            frames = greedy_frames(handle, name)
            mark(0)
            before = resource.getrlimit(resource.RLIMIT_AS)
            resource.setrlimit(resource.RLIMIT_AS, (size_of_this_process() + ALLOWED_NBYTES, before[1]))
            heard.swallow([bytes((0xB7, 1, OBJECT)) + frames[0], *frames[1:]], outcome)
            resource.setrlimit(resource.RLIMIT_AS, before)
            heard.ring.revoke(handle)
        return outcome

    assert set(trial(swallow)) == {"fine" if name in HARMLESS else "HandleError"}


def greedy_frames(handle: Handle, name: str) -> list[bytes]:
    frame = bytes(1 << 20)
    inline = Exchange(None, 1, "stranger").encode(torch.zeros(1 << 20, dtype=torch.uint8), [PEER])[0].frames[0]
    head = bytes(inline)[3 + 3 + 4 :]
    return greedy(frame, head, handle)[name]


@pytest.mark.parametrize("kind", [RING, JOINED, REFUSED, AGAIN])
@pytest.mark.parametrize(
    "body",
    [b"\x81\xa7ring_id\xa2\xff\xfe", b"\x81\xa1x" + b"\x91" * 100_000, b"\xdf\xff\xff\xff\xff", b"", b"\xc1", b"\x80"],
    ids=["no UTF-8", "nested", "endless", "empty", "no msgpack", "no field"],
)
def test_what_cannot_be_read_is_told_to_who_takes_and_never_to_who_hears(kind: int, body: bytes) -> None:
    with victim() as heard:
        heard.exchange.hear(PEER, [memoryview(bytes((0xB7, 1, kind)) + body)])
        with pytest.raises(HandleError, match=f"of kind {kind} that cannot be read"):
            heard.exchange.take(object)


@pytest.mark.parametrize("kind", [JOINED, REFUSED, AGAIN])
def test_answers_about_rings_that_nobody_introduced_are_not_kept(kind: int) -> None:
    with victim() as heard:
        for number in range(1000):
            answer = Answer(f"{number:032x}", peer_id="3" * 32)
            heard.exchange.hear(PEER, [memoryview(envelope(kind, msgspec.msgpack.encode(answer))[0])])
        assert not heard.exchange.outbox


def test_a_frame_that_is_referred_to_twice_is_refused() -> None:
    body, frame = bytes((0xB7, 1, OBJECT)), bytes(70000)
    whole = Exchange(None, 1, "stranger").encode([torch.zeros(70000, dtype=torch.uint8)], [PEER])[0].frames
    reference = bytes(whole[0])[4:]
    with victim() as heard:
        heard.exchange.hear(PEER, [memoryview(body + b"\x91" + reference), memoryview(frame)])
        assert heard.exchange.take(list[torch.Tensor])[1][0].nbytes == 70000
        heard.exchange.hear(PEER, [memoryview(body + b"\x92" + reference + reference), memoryview(frame)])
        with pytest.raises(HandleError, match="extension 3"):
            heard.exchange.take(list[torch.Tensor])


def genuine_messages() -> list[list[bytes]]:
    with victim() as heard:
        return heard.genuine


def test_garbage_through_a_socket_leaves_the_channel_working(tmp_path: Path, rng: random.Random) -> None:
    garbage = [*messages(genuine_messages(), rng.randrange(1 << 32), 800), [b""], [b"", b""], [b"\xb7"], [b"\xb7\x01"]]
    with (
        zmq.Context() as context,
        context.socket(zmq.ROUTER) as router,
        context.socket(zmq.DEALER) as dealer,
        Ring.create(capacity="1MiB", segment="1MiB", entries=16) as ring,
        Channel(router, ring) as channel,
    ):
        for socket in (router, dealer):
            socket.linger = 0
        router.bind(f"ipc://{tmp_path}/socket")
        dealer.connect(f"ipc://{tmp_path}/socket")
        for frames in garbage:
            dealer.send_multipart(frames)
        with Channel(dealer) as sane:
            sane.send("the end")
            got = None
            while got != "the end":
                with contextlib.suppress(*socket_garbage.ANSWERS):
                    got = channel.recv(timeout_s=20)


def test_garbage_through_a_socket_leaves_the_asyncio_channel_working(tmp_path: Path, rng: random.Random) -> None:
    garbage = [*messages(genuine_messages(), rng.randrange(1 << 32), 400), [b""], [b"", b""], [b"\xb7"], [b"\xb7\x01"]]

    async def listen() -> None:
        with (
            zmq.asyncio.Context() as context,
            context.socket(zmq.ROUTER) as router,
            zmq.Context() as plain,
            plain.socket(zmq.DEALER) as dealer,
        ):
            router.linger = dealer.linger = 0
            router.bind(f"ipc://{tmp_path}/socket")
            dealer.connect(f"ipc://{tmp_path}/socket")
            for frames in garbage:
                dealer.send_multipart(frames)
            with Channel(dealer) as sane:
                sane.send("the end")
                async with AsyncChannel(router) as channel:
                    got = None
                    while got != "the end":
                        with contextlib.suppress(*socket_garbage.ANSWERS):
                            got = await channel.recv(timeout_s=20)

    asyncio.run(listen())
