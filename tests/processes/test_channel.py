"""Objects over sockets between processes: by handle once joined, inline until then, right in both cases."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
import zmq

from shmtransport import (
    Channel,
    HandleError,
    LayoutMismatchError,
    Ring,
    RingFullError,
    UnsupportedTypeError,
    WaitTimeoutError,
)
from tests.processes.channels import Answer, Request, channel_there, introduce, pair, socket_here
from tests.processes.children import KINDS, Child, child, digest, pixels
from tests.support import wait_until

MIB = 1 << 20


@pytest.fixture(scope="module")
def engine() -> Iterator[Child]:
    with child("quick") as engine:
        yield engine


@pytest.fixture
def ring() -> Iterator[Ring]:
    with Ring.create(capacity="32MiB", segment="16MiB", name="here") as ring:
        yield ring


def received(process: Child, digest_of: str = "message") -> Any:
    """The next message of a child's channel, by its digest."""
    process.run("message = channel.recv(timeout_s=20)")
    answer = process.ask(f"digest({digest_of})")
    process.run("message = None")
    return answer


# -- the handshake ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_message_goes_inline_and_after_the_join_they_go_by_handle(
    kind: Any, ring: Ring, tmp_path: Path
) -> None:
    with child(kind) as engine, pair(engine, tmp_path, ring) as channel:
        channel.send(pixels(1))
        assert received(engine) == digest(pixels(1))
        statistics = channel.statistics()
        assert (statistics.handles, statistics.inline) == (0, {"not_joined": 1})
        assert statistics.sent_wire_nbytes > MIB
        engine.start("run", "message = channel.recv(timeout_s=20)")  # a peer answers while it receives or sends
        assert channel.join(timeout_s=20)
        for seed in range(2, 5):
            channel.send(pixels(seed))
            engine.answer()
            assert engine.ask("digest(message)") == digest(pixels(seed))
            engine.start("run", "message = None; message = channel.recv(timeout_s=20)")
        channel.send("the end")
        engine.answer()
        after = channel.statistics()
        assert (after.sent, after.handles, after.inline) == (5, 3, {"not_joined": 1})
        assert after.sent_wire_nbytes - statistics.sent_wire_nbytes < 4 * 256
        assert ring.statistics().writer.writes == 3
        wait_until(lambda: ring.statistics().blocks == 0)


def test_join_without_an_answer_times_out_and_nothing_is_lost(ring: Ring, tmp_path: Path, engine: Child) -> None:
    with pair(engine, tmp_path, ring) as channel:
        with pytest.raises(WaitTimeoutError, match="waited for the peer to join the ring"):
            channel.join(timeout_s=0.05)
        channel.send(pixels(1))
        assert received(engine) == digest(pixels(1))


def test_a_peer_that_has_no_ring_sends_inline_and_receives_handles(ring: Ring, tmp_path: Path, engine: Child) -> None:
    with pair(engine, tmp_path, ring) as channel:
        introduce(channel, engine)
        engine.run("channel.send({'back': pixels(2)})")
        assert digest(channel.recv(timeout_s=20)["back"]) == digest(pixels(2))
        assert engine.ask("channel.statistics().inline") == {"not_backed": 1}
        channel.send(pixels(3))
        assert received(engine) == digest(pixels(3))
        assert channel.statistics().handles == 1


def test_both_ends_send_by_handle_through_their_own_rings(ring: Ring, tmp_path: Path, engine: Child) -> None:
    with pair(engine, tmp_path, ring, capacity="16MiB") as channel:
        introduce(channel, engine)
        for seed in range(3):
            channel.send(pixels(seed))
            assert received(engine) == digest(pixels(seed))
            engine.run("channel.send(pixels(seed))", seed=seed + 10)
            assert digest(channel.recv(timeout_s=20)) == digest(pixels(seed + 10))
        assert channel.statistics().handles == 3
        assert engine.ask("channel.statistics().handles") == 3
        assert engine.ask("ring.statistics().writer.writes") == 3


def test_a_peer_on_another_host_gets_the_bytes(ring: Ring, tmp_path: Path, engine: Child) -> None:
    with pair(engine, tmp_path, ring) as channel:
        engine.run(
            "import msgspec\n"
            "host = channel._exchange.host\n"
            "channel._exchange.host = msgspec.structs.replace(host, boot_id='0' * 32)"
        )
        engine.start("run", "channel.recv(timeout_s=20)")  # a peer answers while it receives or sends
        assert channel.join(timeout_s=20) is False
        channel.send("hello")
        engine.answer()
        for seed in range(2):
            channel.send(pixels(seed))
            assert received(engine) == digest(pixels(seed))
        assert channel.statistics().inline == {"elsewhere": 2}
        assert ring.statistics().inline == {"elsewhere": 2}
        assert ring.statistics().blocks == 0


# -- objects --------------------------------------------------------------------------------------------------------


def request(seed: int = 0) -> Request:
    return Request("what is this?", [pixels(seed + number, 256 << 10) for number in range(3)])


def test_nested_objects_arrive_as_dicts_and_lists_or_as_the_type_asked_for(
    ring: Ring, tmp_path: Path, engine: Child
) -> None:
    with pair(engine, tmp_path, ring, capacity="16MiB") as channel:
        introduce(channel, engine)
        engine.run("from tests.processes.channels import Answer, Request")
        sent = {
            "dict": {"nested": {"deep": pixels(1)}},
            "list": [pixels(2), 1, None, "two", 3.5, b"four"],
            "tuple": (pixels(3), (True, np.arange(70_000))),
            "dataclass": request(),
            "struct": Answer(request(5), pixels(9), {"decode": 0.25}),
            "small": torch.arange(5),
            "scalar": np.float32(1.5),
        }
        channel.send(sent)
        engine.run("message = channel.recv(timeout_s=20)")
        assert engine.ask("[type(message['struct']), type(message['tuple']), type(message['dataclass'])]") == [
            dict,
            list,
            dict,
        ]
        # Inline at first: nobody has told it who we are in our own ring. That asks; our next turn answers.
        back: Any = None
        for _ in range(100):
            engine.run("channel.send(message)")
            back = channel.recv(timeout_s=20)
            if engine.ask("channel.statistics().handles"):
                break
        assert list(back) == list(sent)
        assert digest(back["dict"]["nested"]["deep"]) == digest(pixels(1))
        assert [digest(back["list"][0]), *back["list"][1:]] == [digest(pixels(2)), 1, None, "two", 3.5, b"four"]
        assert digest(back["tuple"][0]) == digest(pixels(3))
        assert back["tuple"][1][0] is True
        assert np.array_equal(back["tuple"][1][1], np.arange(70_000))
        assert back["dataclass"]["prompt"] == "what is this?"
        assert [digest(image) for image in back["dataclass"]["images"]] == [digest(i) for i in request().images]
        assert digest(back["struct"]["scores"]) == digest(pixels(9))
        assert torch.equal(back["small"], torch.arange(5))
        assert back["scalar"] == np.float32(1.5)
        assert type(back["scalar"]) is np.float32
        # 1 deep, 1 list, 2 tuple, 3 dataclass, 4 struct; all of them went both ways without a second copy.
        assert channel.statistics().handles == 11
        assert engine.ask("channel.statistics().handles") == 11
        assert engine.ask("ring.statistics().writer.writes") == 0
        del back


def test_a_dataclass_and_a_struct_are_received_as_such(ring: Ring, tmp_path: Path, engine: Child) -> None:
    with pair(engine, tmp_path, ring) as channel:
        introduce(channel, engine)
        engine.run("from tests.processes.channels import Answer, Request\nfrom torch import Tensor")
        channel.send(request())
        engine.run("message = channel.recv(Request, timeout_s=20)")
        assert engine.ask("type(message).__name__, [digest(image) for image in message.images]") == (
            "Request",
            [digest(image) for image in request().images],
        )
        channel.send(Answer(request(5), pixels(9), {"decode": 0.25}))
        engine.run("message = channel.recv(Answer, timeout_s=20)")
        assert engine.ask("(type(message.request).__name__, message.times, digest(message.scores))") == (
            "Request",
            {"decode": 0.25},
            digest(pixels(9)),
        )
        channel.send((pixels(1), [1, 2]))
        engine.run("message = channel.recv(tuple[Tensor, set[int]], timeout_s=20)")
        assert engine.ask("(digest(message[0]), message[1])") == (digest(pixels(1)), {1, 2})


def test_a_message_that_is_not_the_type_asked_for_is_dropped_with_its_leases(
    ring: Ring, tmp_path: Path, engine: Child
) -> None:
    with pair(engine, tmp_path, ring) as channel:
        introduce(channel, engine)
        channel.send({"images": [pixels(1)], "prompt": 5})
        channel.send(pixels(2))
        engine.run("from tests.processes.channels import Request")
        with pytest.raises(AssertionError, match=r"ValidationError: .*\$\.prompt"):
            engine.run("channel.recv(Request, timeout_s=20)")
        assert received(engine) == digest(pixels(2))
        wait_until(lambda: ring.statistics().blocks == 0)


@pytest.mark.parametrize(
    ("threshold", "by_handle"), [("64KiB", [0, 0, 1, 1]), (0, [1, 1, 1, 1]), ("1MiB", [0, 0, 0, 0])]
)
def test_tensors_below_the_threshold_go_inline_and_are_counted(
    ring: Ring, tmp_path: Path, engine: Child, threshold: int | str, by_handle: list[int]
) -> None:
    address = f"ipc://{tmp_path}/threshold"
    with (
        socket_here(zmq.PAIR, address) as socket,
        channel_there(engine, address),
        Channel(socket, ring, threshold=threshold) as channel,
    ):
        introduce(channel, engine)
        for nbytes, expected in zip([16, 65535, 65536, 65537], by_handle, strict=True):
            before = channel.statistics()
            source = torch.full((nbytes,), 3, dtype=torch.uint8)
            channel.send(source)
            assert received(engine) == digest(source)
            after = channel.statistics()
            assert after.handles - before.handles == expected
            assert after.inline.get("small", 0) - before.inline.get("small", 0) == 1 - expected
        channel.send(torch.empty(0, 3))
        assert engine.ask("tuple(channel.recv(timeout_s=20).shape)") == (0, 3)


def test_one_object_may_hold_the_same_tensor_many_times(ring: Ring, tmp_path: Path, engine: Child) -> None:
    with pair(engine, tmp_path, ring) as channel:
        introduce(channel, engine)
        backed = ring.put(pixels(1))
        channel.send([backed, backed, backed[1:], {"again": backed}])
        engine.run("message = channel.recv(timeout_s=20)")
        assert engine.ask("len({t.data_ptr() for t in (message[0], message[1], message[3]['again'])})") == 1
        assert ring.statistics().writer.writes == 1
        del backed
        engine.run("message = None")
        wait_until(lambda: ring.statistics().blocks == 0)


def test_without_room_the_bytes_go_inline_and_that_is_counted(tmp_path: Path, engine: Child) -> None:
    with (
        Ring.create(capacity="2MiB", segment="2MiB", on_full="inline") as ring,
        pair(engine, tmp_path, ring) as channel,
    ):
        introduce(channel, engine)
        held = ring.put(pixels(1, 2 * MIB))
        channel.send([pixels(2), pixels(3, 4 * MIB)])
        engine.run("message = channel.recv(timeout_s=20)")
        assert engine.ask("[digest(tensor) for tensor in message]") == [digest(pixels(2)), digest(pixels(3, 4 * MIB))]
        assert channel.statistics().inline == {"full": 2}
        assert ring.statistics().inline == {"full": 2}
        del held
        channel.send(pixels(4))
        assert received(engine) == digest(pixels(4))
        assert channel.statistics().handles == 1


def test_without_room_a_ring_that_raises_sends_nothing_and_leases_nothing(tmp_path: Path, engine: Child) -> None:
    with Ring.create(capacity="2MiB", segment="2MiB", on_full="raise") as ring, pair(engine, tmp_path, ring) as channel:
        introduce(channel, engine)
        sent = channel.statistics().sent
        with pytest.raises(RingFullError):
            channel.send([pixels(1), pixels(2, 2 * MIB)])
        assert channel.statistics().sent == sent
        assert ring.statistics().blocks == 0
        channel.send(pixels(3))
        assert received(engine) == digest(pixels(3))


def test_a_refused_object_leaves_no_lease_of_the_tensors_before_it(ring: Ring, tmp_path: Path, engine: Child) -> None:
    with pair(engine, tmp_path, ring) as channel:
        introduce(channel, engine)
        with pytest.raises(UnsupportedTypeError, match=r"builtins.object - at \$\.images\[3\]"):
            channel.send({"images": [pixels(1), pixels(2), pixels(3), object()]})
        assert ring.statistics().writer.shared == 3
        assert ring.statistics().blocks == 0
        channel.send(pixels(4))
        assert received(engine) == digest(pixels(4))


# -- what is no message -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "frames",
    [
        [b""],
        [b"hello"],
        [b"\xb6\x01\x05\x80"],
        [b"\xb7"],
        [b"\xb7\x01\x05"],
        [b"\xb7\x01\x05\xc1"],
        [b"\xb7\x01\x01garbage"],
        [b"\xb7\x01\x02\x81\xa1x\x01"],
        [b"\xb7\x01\x05" + msgspec.msgpack.encode(msgspec.msgpack.Ext(1, b"\xb5\x01 not a handle"))],
        [b"\xb7\x01\x05" + msgspec.msgpack.encode(msgspec.msgpack.Ext(3, b"\x05\x00\x00\x00")), b"one frame"],
        [b"\xb7\x01\x05" + msgspec.msgpack.encode(msgspec.msgpack.Ext(77, b"what"))],
        [b"\xb7\x01\x63unknown kind"],
    ],
    ids=lambda frames: repr(frames[0][:12]),
)
def test_a_message_of_something_else_is_a_handle_error_and_the_next_one_is_fine(
    tmp_path: Path, frames: list[bytes]
) -> None:
    address = "inproc://garbage"
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    with context, context.socket(zmq.PAIR) as here, context.socket(zmq.PAIR) as there:
        here.bind(address)
        there.connect(address)
        channel, peer = Channel(here), Channel(there)
        there.send_multipart(frames)
        with pytest.raises(HandleError):
            channel.recv(timeout_s=5)
        peer.send({"fine": torch.arange(3)})
        assert torch.equal(channel.recv(timeout_s=5)["fine"], torch.arange(3))


def test_another_version_of_the_channel_is_refused_with_both_numbers() -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    with context, context.socket(zmq.PAIR) as here, context.socket(zmq.PAIR) as there:
        here.bind("inproc://version")
        there.connect("inproc://version")
        there.send(b"\xb7\x02\x05\x80")
        with pytest.raises(LayoutMismatchError, match="expected channel version 1, got 2"):
            Channel(here).recv(timeout_s=5)
