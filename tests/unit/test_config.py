"""Parameters are checked before anything is touched, and the error names what, what it got and what it takes."""

from typing import Any

import pytest
import torch
import zmq

from shmtransport import Channel, ConfigError, Reader, Ring
from shmtransport.config import LARGEST_NBYTES, RingConfig, parse_size
from tests.peers import join_as_if_another_process
from tests.support import segment_names


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [
        (4096, 4096),
        ("4096", 4096),
        ("4096B", 4096),
        ("1kB", 1000),
        ("1KB", 1000),
        ("1KiB", 1024),
        ("1kib", 1024),
        (" 64 MiB ", 64 << 20),
        ("1 GB", 10**9),
        ("1GiB", 1 << 30),
        ("1TB", 10**12),
        ("2TiB", 2 << 40),
        ("1.5GiB", 3 << 29),
        ("0.5 MB", 500_000),
        (LARGEST_NBYTES, LARGEST_NBYTES),
    ],
)
def test_a_size_is_a_number_or_a_number_with_a_unit(text: int | str, nbytes: int) -> None:
    assert parse_size("capacity", text) == nbytes


BAD_SIZES: list[Any] = [
    "1 GB?", "", "GB", "-1GB", "-1", "1e9", "1,5GB", "1 G", "1 XB", "1GBB", "\u0661GB", "½GB", "nan", "inf", "0x1000",
    -1, -4096, 0, 1.5, float("nan"), None, True, b"1GB", [1], LARGEST_NBYTES + 1, "999999TB",
]  # fmt: skip


@pytest.mark.parametrize("got", BAD_SIZES, ids=repr)
@pytest.mark.parametrize("parameter", ["capacity", "segment"])
def test_a_size_that_is_none_is_refused_with_parameter_value_and_what_is_taken(parameter: str, got: object) -> None:
    sizes: dict[str, Any] = {"capacity": "1MiB", "segment": "1MiB"} | {parameter: got}
    before = segment_names()
    with pytest.raises(ConfigError) as caught:
        Ring.create(**sizes)
    message = str(caught.value)
    assert message.startswith(f"{parameter}: expected ")
    assert "a number of bytes or a size such as" in message
    assert message.endswith(f"got {got!r}")
    assert (caught.value.parameter, caught.value.got) == (parameter, got) or got != got
    assert segment_names() == before


@pytest.mark.parametrize(
    ("parameter", "got", "takes"),
    [
        ("on_full", "blocks", 'one of "inline", "block", "raise"'),
        ("on_full", "INLINE", 'one of "inline", "block", "raise"'),
        ("on_full", None, 'one of "inline", "block", "raise"'),
        ("timeout_s", -1, "seconds, 0 or more and finite"),
        ("timeout_s", float("inf"), "seconds, 0 or more and finite"),
        ("timeout_s", float("nan"), "seconds, 0 or more and finite"),
        ("timeout_s", "10", "seconds, 0 or more and finite"),
        ("timeout_s", True, "seconds, 0 or more and finite"),
        ("entries", 0, "a number of blocks from 1 to 1048576"),
        ("entries", -1, "a number of blocks from 1 to 1048576"),
        ("entries", 1 << 21, "a number of blocks from 1 to 1048576"),
        ("entries", 1.0, "a number of blocks from 1 to 1048576"),
        ("entries", True, "a number of blocks from 1 to 1048576"),
        ("name", 5, "a text"),
        ("name", None, "a text"),
    ],
    ids=repr,
)
def test_every_other_parameter_of_a_ring_is_checked_too(parameter: str, got: object, takes: str) -> None:
    parameters: dict[str, Any] = {"capacity": "1MiB", parameter: got}
    before = segment_names()
    with pytest.raises(ConfigError) as caught:
        Ring.create(**parameters)
    assert str(caught.value).startswith(f"{parameter}: expected {takes}")
    assert str(caught.value).endswith(f"got {got!r}")
    assert segment_names() == before


def test_a_config_error_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="capacity"):
        Ring.create(capacity="a lot")


def test_sizes_are_rounded_up_to_pages_and_a_segment_never_exceeds_the_capacity() -> None:
    config = RingConfig.checked(
        capacity=10_000, segment="64MiB", entries=None, on_full="inline", timeout_s=1, name="camera", backing="auto"
    )
    assert config.capacity_nbytes == 12288
    assert config.segment_nbytes == 12288


@pytest.mark.parametrize(("capacity", "entries"), [("1MiB", 1024), ("256MiB", 4096), ("1TiB", 16384)])
def test_the_block_table_has_an_entry_for_each_64_kib_within_bounds(capacity: str, entries: int) -> None:
    config = RingConfig.checked(
        capacity=capacity, segment="1MiB", entries=None, on_full="inline", timeout_s=1, name="", backing="auto"
    )
    assert config.entries == entries


@pytest.mark.parametrize(
    "got", ["", "abc", "0" * 31, "0" * 33, "G" * 32, "A" * 32, "../" + "0" * 29, "0" * 31 + "/", None, 7, b"0" * 32]
)
def test_a_ring_id_that_is_none_is_refused(got: Any) -> None:
    with pytest.raises(ConfigError, match=r"^ring_id: expected 32 hexadecimal characters, as in Ring.id, got "):
        Reader.join(got)


@pytest.mark.parametrize("got", ["", "abc", "0" * 30, "0" * 34, "x" * 32, ["0" * 32, "abc"]])
def test_a_peer_id_that_is_none_is_refused(got: Any) -> None:
    with Ring.create(capacity="1MiB") as ring:
        tensor = ring.put(torch.arange(100))
        with pytest.raises(ConfigError, match=r"^readers: expected peer ids of 32 hexadecimal characters"):
            ring.share(tensor, got)


def test_sharing_with_nobody_is_refused() -> None:
    with Ring.create(capacity="1MiB") as ring:
        tensor = ring.put(torch.arange(100))
        with pytest.raises(ConfigError, match=r"^readers: expected at least one reader, got \[\]"):
            ring.share(tensor, [])


def test_a_shape_below_zero_is_refused() -> None:
    with Ring.create(capacity="1MiB") as ring, pytest.raises(ConfigError, match=r"^shape: .* got \(3, -1\)"):
        ring.empty((3, -1))


@pytest.mark.parametrize("got", ["64 KiB?", -1, None, 1.5])
def test_a_threshold_that_is_no_size_is_refused(got: Any) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    with context, context.socket(zmq.PAIR) as socket, pytest.raises(ConfigError, match=r"^threshold: expected "):
        Channel(socket, threshold=got)


def test_a_threshold_of_zero_is_a_threshold() -> None:
    assert parse_size("threshold", 0, smallest=0) == 0


@pytest.mark.parametrize("kind", [zmq.PUB, zmq.SUB, zmq.PUSH, zmq.PULL, zmq.REQ, zmq.REP], ids=lambda kind: kind.name)
def test_a_socket_without_a_way_back_is_refused_by_name(kind: zmq.SocketType) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    with (
        context,
        context.socket(kind) as socket,
        pytest.raises(ConfigError, match=f"^socket: expected one of PAIR, DEALER, ROUTER.* got '{kind.name}'"),
    ):
        Channel(socket)


def test_routing_ids_are_for_routers_and_routers_need_them() -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    with context, context.socket(zmq.PAIR) as pair, context.socket(zmq.ROUTER) as router:
        with pytest.raises(ConfigError, match=r"^to: expected nothing, since the socket has one peer"):
            Channel(pair).send("hello", to=b"engine")
        nobody: list[bytes] | None
        for nobody in (None, []):
            with pytest.raises(ConfigError, match=r"^to: expected one or several routing ids"):
                Channel(router).send("hello", to=nobody)


def test_a_long_name_is_cut_at_31_bytes_and_never_inside_a_character() -> None:
    with Ring.create(capacity="1MiB", name="ü" * 40) as ring:
        assert ring.statistics().writer.name == "ü" * 15
        assert join_as_if_another_process(ring.id, "engine").statistics().processes[1].name == "engine"
