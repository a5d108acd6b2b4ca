"""The way back, without vLLM: a frontend and an EngineCore that meet while requests go on."""

import queue
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from shmtransport.adapters.leaving import Leaving
from shmtransport.adapters.rings import KEY
from shmtransport.adapters.settings import Settings
from shmtransport.adapters.vllm.encoding import consumer_of_new_encoders, module
from shmtransport.adapters.vllm.returning import ASK, JOINED, ReturnRing, Returns, may_return_tensors
from shmtransport.adapters.vllm.sending import Consumer
from shmtransport.handles import VERSION
from shmtransport.reader import Reader
from tests.peers import join_as_if_another_process
from tests.support import wait_until

ENGINE = b"\0\0"
SETTINGS = Settings.from_environment({"SHMTRANSPORT_CAPACITY": "4MiB", "SHMTRANSPORT_SEGMENT": "1MiB"})
EMBEDDING = torch.arange(32 << 10, dtype=torch.float32)


@pytest.fixture
def core() -> Iterator[ReturnRing]:
    made = ReturnRing(SETTINGS)
    yield made
    if made.consumer.ring is not None:
        made.consumer.ring.close()


class Calls:
    """Carries a frontend's calls to the EngineCore, whose answers come at once."""

    def __init__(self, core: ReturnRing) -> None:
        self.made: list[str] = []
        self._methods: dict[str, Callable[..., Any]] = {ASK: core.ask, JOINED: core.joined}

    def __call__(self, engine: bytes, method: str, *args: Any) -> "Future[Any]":
        assert engine == ENGINE
        self.made.append(method)
        answer: Future[Any] = Future()
        answer.set_result(self._methods[method](*args))
        return answer


@pytest.fixture
def calls(core: ReturnRing) -> Calls:
    return Calls(core)


@pytest.fixture
def returns(calls: Calls, monkeypatch: pytest.MonkeyPatch) -> Iterator[Returns]:
    monkeypatch.setattr(Reader, "join", join_as_if_another_process)
    made = Returns(1, calls, Leaving())
    yield made
    made.rings.close()


def sent(core: ReturnRing, client_index: int, tensor: torch.Tensor) -> dict[str, Any] | None:
    """What stands for ``tensor`` in an output for this client."""
    outputs: queue.Queue[Any] = queue.Queue()
    core.watch(outputs)
    outputs.put((client_index, "outputs"))
    assert outputs.get() == (client_index, "outputs")
    return core.consumer(tensor)


def meet(returns: Returns, core: ReturnRing, calls: Calls) -> None:
    def has_told() -> bool:
        returns.look(ENGINE)  # before each request
        return JOINED in calls.made

    wait_until(has_told)


def test_after_a_few_requests_a_client_gets_handles_and_another_does_not(
    returns: Returns, core: ReturnRing, calls: Calls
) -> None:
    assert sent(core, 1, EMBEDDING) is None  # nobody has asked: there is no ring
    meet(returns, core, calls)
    assert sent(core, 0, EMBEDDING) is None
    assert sent(core, 1, EMBEDDING[:8]) is None  # small
    meta = sent(core, 1, EMBEDDING)
    assert meta is not None
    got = returns.rings.provide("float32", tuple(EMBEDDING.shape), meta)
    assert torch.equal(got, EMBEDDING)
    got += 1  # it is the user's now
    ring = core.consumer.ring
    assert ring is not None
    assert ring.statistics().inline == {"not_joined": 1}
    del got
    wait_until(lambda: ring.statistics().blocks == 0)


def test_when_it_is_said_nothing_more_is_said(returns: Returns, core: ReturnRing, calls: Calls) -> None:
    meet(returns, core, calls)
    said = list(calls.made)
    for _ in range(3):
        returns.look(ENGINE)
    assert calls.made == said
    assert said.count(JOINED) == 1


def test_what_the_coordinator_or_nobody_gets_is_inline(returns: Returns, core: ReturnRing, calls: Calls) -> None:
    meet(returns, core, calls)
    assert sent(core, -1, EMBEDDING) is None
    outputs: queue.Queue[Any] = queue.Queue()
    core.watch(outputs)
    outputs.put(b"ENGINE_CORE_DEAD")
    outputs.get()
    assert core.consumer(EMBEDDING) is None


def test_without_room_it_is_inline_and_counted(returns: Returns, core: ReturnRing, calls: Calls) -> None:
    meet(returns, core, calls)
    assert sent(core, 1, torch.empty(5 << 20, dtype=torch.uint8)) is None
    ring = core.consumer.ring
    assert ring is not None
    assert ring.statistics().inline["full"] == 1


@pytest.mark.parametrize(
    ("settings", "version", "says"),
    [
        (Settings.from_environment({"SHMTRANSPORT_RETURN": "0"}), VERSION, "SHMTRANSPORT_RETURN"),
        (SETTINGS, VERSION + 1, "version"),
    ],
)
def test_an_engine_that_refuses_is_asked_once(settings: Settings, version: int, says: str) -> None:
    core = ReturnRing(settings)
    assert says in core.ask(version)["error"]
    assert core.consumer.ring is None
    calls = Calls(core)
    refused = Returns(0, lambda engine, method, _: calls(engine, method, version), Leaving())
    for _ in range(3):
        refused.look(ENGINE)
    assert calls.made == [ASK]


def test_a_call_that_fails_leaves_it_inline(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def fails(engine: bytes, method: str, *args: Any) -> "Future[Any]":
        asked.append(method)
        answer: Future[Any] = Future()
        answer.set_exception(RuntimeError("no such method"))
        return answer

    returns = Returns(0, fails, Leaving())
    returns.look(ENGINE)
    returns.look(ENGINE)
    assert asked == [ASK]


@pytest.mark.parametrize(
    ("request_", "may"),
    [
        (SimpleNamespace(pooling_params=object(), sampling_params=None), True),
        (SimpleNamespace(pooling_params=None, sampling_params=SimpleNamespace(prompt_logprobs=0)), True),
        (SimpleNamespace(pooling_params=None, sampling_params=SimpleNamespace(prompt_logprobs=None)), False),
        (None, False),
    ],
)
def test_which_requests_may_return_tensors(request_: object, may: bool) -> None:
    assert may_return_tensors(request_) == may


def test_only_encoders_made_in_the_output_thread_without_a_consumer_get_one() -> None:
    (seam,) = module().seams
    wrapper = seam.wrapper
    assert wrapper is not None

    def made(own: object = None) -> Any:
        encoder = SimpleNamespace(oob_tensor_consumer=own)
        wrapper(lambda _: None, encoder)
        return encoder.oob_tensor_consumer

    consumer = Consumer(1, None)
    with consumer_of_new_encoders(consumer):
        assert made() is consumer
        assert made("its own") == "its own"
    assert made() is None


def test_a_meta_that_is_no_handle_is_an_error(returns: Returns) -> None:
    with pytest.raises(Exception, match="handle"):
        returns.rings.provide("float32", (3,), {KEY: b"no handle"})
