"""An engine client and its engines, without vLLM: joining, refusing, and handles that come back."""

import asyncio
import logging
from collections.abc import Callable, Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from shmtransport.adapters.rings import KEY
from shmtransport.adapters.settings import Settings
from shmtransport.adapters.vllm.core import Engine
from shmtransport.adapters.vllm.link import Link
from shmtransport.adapters.vllm.sending import SharedRing
from tests.support import segment_names

ENGINES = (b"\0\0", b"\1\0", b"\2\0")
SETTINGS = Settings.from_environment({"SHMTRANSPORT_CAPACITY": "1MiB", "SHMTRANSPORT_THRESHOLD": "4096"})


class Client:
    """As vLLM's AsyncMPClient: ``answer`` is what its engines say when they are asked to join."""

    def __init__(self, answer: Callable[..., Any]) -> None:
        multimodal = SimpleNamespace(mm_processor_cache_gb=0)
        self.vllm_config = SimpleNamespace(model_config=SimpleNamespace(multimodal_config=multimodal))
        self.encoder = SimpleNamespace(oob_tensor_consumer=None)
        self.decoder = SimpleNamespace(oob_tensor_provider=None)
        self.asked: list[bytes] = []
        self._answer = answer

    async def _call_utility_async(self, method: str, *args: Any, engine: bytes) -> Any:
        assert method == "shmtransport_join"
        self.asked.append(engine)
        return self._answer(*args)


@pytest.fixture
def shared() -> SharedRing:
    return SharedRing(SETTINGS)


@pytest.fixture
def engine() -> Iterator[Engine]:
    made = Engine(SETTINGS)
    yield made
    made._rings.close()


@pytest.fixture
def client(engine: Engine) -> Client:
    return Client(partial(engine.join, None))


@pytest.fixture
def link(client: Client, shared: SharedRing) -> Iterator[Link]:
    made = Link(client, shared)
    yield made
    made.close()


async def join(link: Link) -> None:
    for _ in range(2):  # the second time nobody is asked again
        for engine in ENGINES:
            link.join_async(engine)
    await asyncio.gather(*link._tasks)


def test_engines_that_join_at_once_share_one_ring_which_goes_with_the_client(
    client: Client, link: Link, shared: SharedRing, caplog: pytest.LogCaptureFixture
) -> None:
    before = segment_names()
    with caplog.at_level(logging.INFO, logger="vllm"):
        asyncio.run(join(link))
    assert sorted(client.asked) == list(ENGINES)
    assert all(link.peers[engine] for engine in ENGINES)
    assert [record.levelname for record in caplog.records] == ["INFO"]
    ring = shared.ring
    assert ring is not None
    assert any(ring.id in name for name in segment_names() - before)
    link.close()
    assert shared.ring is None


@pytest.mark.parametrize("says", [{"error": "no such ring"}, None, {"peer_id": 7}, Exception("unknown method")])
def test_an_engine_that_refuses_is_asked_once_and_named_in_one_warning(
    shared: SharedRing, caplog: pytest.LogCaptureFixture, says: object
) -> None:
    def refuse(*_: object) -> object:
        if isinstance(says, Exception):
            raise says
        return says

    client = Client(refuse)
    link = Link(client, shared)
    with caplog.at_level(logging.WARNING, logger="vllm"):
        asyncio.run(join(link))
    assert link.peers == dict.fromkeys(ENGINES)
    assert sorted(client.asked) == list(ENGINES)
    assert len(caplog.records) == len(ENGINES)
    assert "engine 2" in caplog.text
    link.close()


def test_two_clients_share_the_ring_and_the_last_one_closes_it(client: Client, shared: SharedRing) -> None:
    first, other = Link(client, shared), Client(lambda *_: None)
    ring = first.open_ring()
    assert Link(other, shared).open_ring() is ring
    first.close()
    assert shared.ring is ring
    del other  # collected, which closes its link
    assert shared.ring is None


def test_a_host_without_room_is_named_in_one_warning(
    client: Client, shared: SharedRing, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for look in ("named_nbytes", "anonymous_nbytes"):
        monkeypatch.setattr(f"shmtransport.segment.room.{look}", lambda: (4096, "as if"))
    link = Link(client, shared)
    with caplog.at_level(logging.WARNING, logger="vllm"):
        asyncio.run(join(link))
    assert client.asked == []
    (record,) = caplog.records
    assert "4096 are free" in record.getMessage()


def sending(link: Link, outcome: Callable[[dict[str, Any]], Any]) -> Any:
    """Encodes one tensor for the first engine as vLLM's encoder would, then does ``outcome`` with its handle."""
    ring = link.open_ring()
    assert ring is not None
    tensor = ring.put(torch.ones(4096))

    def call() -> Any:
        meta = link.consumer(tensor)
        assert meta is not None
        assert meta.keys() == {KEY}
        return outcome(meta)

    return link.send(ENGINES[0], None, call)


def revoked(link: Link) -> int:
    ring = link.open_ring()
    assert ring is not None
    return ring.statistics().writer.revoked


def test_handles_come_back_when_encoding_or_sending_fails(link: Link) -> None:
    def fail(_: object) -> None:
        raise OSError("no such socket")

    asyncio.run(join(link))
    with pytest.raises(OSError, match="no such socket"):
        sending(link, fail)
    assert revoked(link) == 1


@pytest.mark.parametrize("outcome", ["fails", "is cancelled", "succeeds"])
def test_handles_come_back_when_an_asynchronous_send_does_not_succeed(link: Link, engine: Engine, outcome: str) -> None:
    async def run() -> dict[str, Any]:
        await join(link)
        sent: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        metas: list[dict[str, Any]] = []

        def send(meta: dict[str, Any]) -> asyncio.Future[None]:
            metas.append(meta)
            return sent

        assert sending(link, send) is sent
        if outcome == "fails":
            sent.set_exception(OSError("no such socket"))
        elif outcome == "is cancelled":
            sent.cancel()
        else:
            sent.set_result(None)
        await asyncio.wait([sent])
        await asyncio.sleep(0)  # callbacks of a future run in the loop's next round
        return metas[0]

    meta = asyncio.run(run())
    assert revoked(link) == (outcome != "succeeds")
    opened = engine("float32", (4096,), meta)
    assert (engine.take_error() is None) == (outcome == "succeeds")
    assert bool(opened.all()) == (outcome == "succeeds")


def test_what_is_sent_can_be_opened_by_the_engine(engine: Engine, link: Link) -> None:
    asyncio.run(join(link))
    opened = sending(link, lambda meta: engine("float32", (4096,), meta))
    assert engine.take_error() is None
    assert torch.equal(opened, torch.ones(4096))
