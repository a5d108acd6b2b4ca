"""The SGLang adapter without SGLang: its pointers, its sender, and seams that do not fit."""

import logging
import pickle
import sys
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from shmtransport import HandleError
from shmtransport.adapters.seams import Module, Seam
from shmtransport.adapters.settings import Settings
from shmtransport.adapters.sglang import hooks, pointer, sending
from shmtransport.adapters.sglang.receiving import Rank
from shmtransport.adapters.sglang.sending import Sender
from shmtransport.handles import Handle
from tests.peers import join_as_if_another_process
from tests.support import wait_until

SETTINGS = Settings.from_environment({"SHMTRANSPORT_CAPACITY": "1MiB", "SHMTRANSPORT_SEGMENT": "1MiB"})
NAME = "SGLang rank 0.0"


class Original:
    """As SGLang's class, with a dict for its segments."""

    segments: dict[str, torch.Tensor] = {}  # noqa: RUF012 - as /dev/shm, one for all

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("shm_name", "shape", "dtype", "precomputed_hash")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._materialization_error: str | None = None
        self.tensor: Any = self.segments.get(state["shm_name"])

    def materialize(self) -> Any:
        if self._materialization_error is not None:
            raise RuntimeError(self._materialization_error)
        if self.tensor is None:
            raise FileNotFoundError(self.shm_name)  # type: ignore[attr-defined]
        return self.tensor

    def close_and_unlink(self) -> None:
        self.segments.pop(self.shm_name, None)  # type: ignore[attr-defined]


@pytest.fixture
def sender() -> Iterator[Sender]:
    made = Sender(SETTINGS, frozenset({NAME}))
    wait_until(lambda: made.ring is not None)
    yield made
    made.close()
    assert made.ring is not None
    made.ring.close()


@pytest.fixture
def kind(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The class that replaces `Original`, where its own rank reads the ring of this very process."""
    made = pointer.pointer_class(Original, Rank(SETTINGS))
    monkeypatch.setattr(sys.modules[__name__], "Original", made)
    return made


def state_of(segment: str, tensor: torch.Tensor) -> dict[str, Any]:
    return {"shm_name": segment, "shape": tensor.shape, "dtype": tensor.dtype, "precomputed_hash": 7}


def test_the_class_has_the_name_and_module_of_the_one_it_replaces(kind: Any) -> None:
    assert (kind.__module__, kind.__qualname__) == (__name__, "Original")


def test_a_state_of_the_replaced_class_is_understood(kind: Any) -> None:
    tensor = torch.arange(4)
    kind.segments["a"] = tensor
    made = kind.__new__(kind)
    made.__setstate__(state_of("a", tensor))
    assert made.handle is None
    assert made.materialize() is tensor
    made.close_and_unlink()
    assert kind.segments == {}


def test_a_pointer_by_handle_travels_without_a_ring(kind: Any, sender: Sender) -> None:
    assert sender.ring is not None
    with join_as_if_another_process(sender.ring.id) as reader:
        handle = sender.ring.share(torch.zeros(1 << 15), reader)
        assert isinstance(handle, Handle)
        made = kind.by_handle(handle, torch.zeros(1 << 15), 7)
        there = pickle.loads(pickle.dumps(made))
        assert (there.handle, there.shape, there.precomputed_hash) == (handle, made.shape, 7)
        with pytest.raises(HandleError, match="joined no ring"):
            there.materialize()
        there.close_and_unlink()  # raises nothing
        reader.open(handle)


def test_the_state_of_a_handle_is_one_the_replaced_class_can_read(kind: Any, sender: Sender) -> None:
    assert sender.ring is not None
    with join_as_if_another_process(sender.ring.id) as reader:
        handle = sender.ring.share(torch.zeros(1 << 15), reader)
        state = kind.by_handle(handle, torch.zeros(1 << 15), None).__getstate__()
        plain = kind.__base__.__new__(kind.__base__)
        plain.__setstate__(state)
        with pytest.raises(FileNotFoundError, match=pointer.NO_SEGMENT):
            plain.materialize()
        reader.refuse(handle)


def test_an_announcement_rides_with_a_segment(kind: Any) -> None:
    made = kind.__new__(kind)
    made.__setstate__(state_of("a", torch.zeros(4)))
    made.announced = "0" * 32
    assert pickle.loads(pickle.dumps(made)).announced == made.announced
    other = kind.__new__(kind)
    other.__setstate__({**made.__getstate__(), pointer.VERSION: -1})
    assert other.announced is None, "of another version of handles"


def test_a_handle_that_is_none_is_an_error_of_its_request_and_not_of_reading_it(kind: Any) -> None:
    made = kind.__new__(kind)
    made.__setstate__({**state_of(pointer.NO_SEGMENT, torch.zeros(4)), pointer.HANDLE: b"no handle"})
    there = pickle.loads(pickle.dumps(made))
    for each in (made, there):
        with pytest.raises((FileNotFoundError, RuntimeError)):
            each.materialize()


def test_a_rank_that_writes_gets_a_copy_and_the_ring_stays_anonymous() -> None:
    settings = Settings.from_environment(
        {"SHMTRANSPORT_WRITABLE": "1", "SHMTRANSPORT_CAPACITY": "1MiB"}, backing="memfd"
    )
    sender = Sender(settings, frozenset({NAME}))
    wait_until(lambda: sender.ring is not None)
    assert sender.ring is not None
    assert sender.ring.attachment.backing.NAME == "memfd"
    sender.close()
    tensor = torch.zeros(4)
    assert Rank(settings).owned(tensor) is not tensor
    assert Rank(SETTINGS).owned(tensor) is tensor


def test_no_handle_before_every_rank_has_joined_and_none_after_one_has_gone(
    sender: Sender, caplog: pytest.LogCaptureFixture
) -> None:
    assert sender.ring is not None
    assert sender.peers() is None
    with join_as_if_another_process(sender.ring.id, "a stranger"):
        assert sender.peers() is None
    tensor = torch.zeros(1 << 15)
    with caplog.at_level(logging.INFO, logger=hooks.logger.name):
        with join_as_if_another_process(sender.ring.id, NAME) as reader:
            peers = sender.peers()
            assert peers == bytes.fromhex(reader.peer_id)
            assert "1 ranks have joined" in caplog.text
            staged = sender.stage(tensor)
            handle = sender.share(staged, peers)
            assert handle is not None
            assert torch.equal(torch.as_tensor(reader.open(handle)), tensor)
        wait_until(lambda: sender.share(staged, peers) is None)
        assert sender.peers() is None


def test_a_rank_that_does_not_join_is_named_once(
    sender: Sender, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "JOIN_TIMEOUT_S", -1.0)
    for _ in range(3):
        assert sender.peers() is None
    assert [NAME in record.getMessage() for record in caplog.records] == [True]


def test_what_is_staged_twice_is_written_once_unless_it_changed(sender: Sender) -> None:
    assert sender.ring is not None
    tensor = torch.zeros(1 << 15)
    first = sender.stage(tensor)
    assert sender.stage(tensor) is first
    assert sender.stage(first) is first
    assert sender.stage(tensor) is first
    tensor.add_(1)
    assert sender.stage(tensor) is not first
    assert sender.ring.statistics().writer.writes == 2
    with torch.inference_mode():
        unversioned = torch.zeros(1 << 15)
    assert sender.stage(unversioned) is sender.stage(unversioned)
    del first, tensor, unversioned
    assert sender.ring.statistics().used_nbytes == 0


def test_copies_that_are_kept_make_room_for_others(sender: Sender) -> None:
    kept = [torch.zeros(1 << 17) for _ in range(2)]  # 512 KiB each: all there is
    staged = [sender.stage(tensor) for tensor in kept]
    assert all(sender.ring is not None and sender.ring.holds(tensor) for tensor in staged)
    del staged
    tensor = torch.zeros(1 << 17)
    assert sender.stage(tensor) is tensor, "no room, and the copies are let go"
    assert sender.stage(tensor) is not tensor


def test_small_tensors_are_not_staged(sender: Sender) -> None:
    tensor = torch.zeros(16)
    assert sender.stage(tensor) is tensor


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Where SGLang's `HookRegistry` would be: what was registered."""
    registered: list[tuple[str, str]] = []
    module: Any = ModuleType("sglang.srt.plugins.hook_registry")
    module.HookType = SimpleNamespace(AROUND="around", REPLACE="replace")
    module.HookRegistry = SimpleNamespace(register=lambda place, _, kind: registered.append((place, kind)))
    for name in ("sglang", "sglang.srt", "sglang.srt.plugins"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return registered


def fits(name: str) -> tuple[Module, ...]:
    wrapped = Seam("Original", "materialize", ("self",), lambda original, self: original(self))
    return (Module(__name__, (wrapped, Seam("Original", name, ("self",), None))),)


def test_seams_that_fit_are_registered(registry: list[tuple[str, str]]) -> None:
    place = f"{__name__}.Original"
    assert hooks.register(fits("close_and_unlink"), place, lambda original: original)
    assert registry == [(f"{place}.materialize", "around"), (place, "replace")]


def test_nothing_is_registered_if_one_seam_does_not_fit(
    registry: list[tuple[str, str]], caplog: pytest.LogCaptureFixture
) -> None:
    assert not hooks.register(fits("unlink"), f"{__name__}.Original", lambda original: original)
    assert registry == []
    assert "Original.unlink is not there" in caplog.text
