"""Staging, sharing and opening without vLLM: stand-ins with vLLM's attributes, and a real ring."""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from shmtransport import Reader, Ring
from shmtransport.adapters import rings
from shmtransport.adapters.ahead import GrowsAhead
from shmtransport.adapters.settings import Settings
from shmtransport.adapters.vllm import core, staging
from shmtransport.adapters.vllm.sending import Consumer
from shmtransport.errors import HandleError
from shmtransport.handles import VERSION
from tests.peers import join_as_if_another_process
from tests.support import wait_until

THRESHOLD = 4096


@dataclass
class Element:
    """As vLLM's MultiModalFieldElem."""

    data: Any
    field: Any = None


@dataclass(frozen=True)
class FlatField:
    """As vLLM's MultiModalFlatField."""

    slices: Sequence[slice]
    dim: int = 0

    def reduce_data(self, elements: list[Element]) -> Any:
        return self._reduce_data([element.data for element in elements])

    def _reduce_data(self, batch: list[torch.Tensor]) -> Any:
        return torch.cat(batch, self.dim)


class FieldThatMergesBySlices(FlatField):
    """As another release might have it."""

    def _reduce_data(self, batch: list[torch.Tensor]) -> Any:
        return [tensor[where] for tensor, where in zip(batch, self.slices, strict=True)]


@pytest.fixture
def ring() -> Iterator[Ring]:
    with Ring.create("1MiB", segment="1MiB", entries=64) as made:
        yield made


def items(*tensors: Any) -> dict[str, list[Any]]:
    return {"image": [{"pixel_values": Element(tensor)} for tensor in tensors]}


def payloads(staged: dict[str, list[Any]]) -> list[Any]:
    return [item["pixel_values"].data for item in staged["image"]]


def test_views_of_one_storage_become_views_of_one_block(ring: Ring) -> None:
    batch = torch.randn(4, 3, 32, 32)
    staged = items(*batch)
    staging.stage(staged, ring, THRESHOLD)
    assert ring.statistics().writer.writes == 1
    assert all(ring.holds(tensor) for tensor in payloads(staged))
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(payloads(staged), batch, strict=True))


def test_a_part_of_a_large_storage_does_not_bring_the_rest(ring: Ring) -> None:
    batch = torch.randn(16, 3, 32, 32)
    staged = items(batch[0], batch[15])
    staging.stage(staged, ring, THRESHOLD)
    assert ring.statistics().writer.written_nbytes == 2 * batch[0].nbytes
    assert torch.equal(payloads(staged)[1], batch[15])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.uint8, torch.bool])
def test_every_dtype_keeps_its_bytes(ring: Ring, dtype: torch.dtype) -> None:
    batch = torch.randn(2, 64, 96).mul(9).to(dtype)
    staged = items(*batch)
    staging.stage(staged, ring, THRESHOLD)
    for ours, theirs in zip(payloads(staged), batch, strict=True):
        assert ours.dtype == dtype
        assert ring.holds(ours)
        assert torch.equal(ours.view(torch.uint8), theirs.view(torch.uint8))


def test_tensors_that_are_not_contiguous_or_lie_unaligned_are_staged_one_by_one(ring: Ring) -> None:
    storage = torch.zeros(3 * THRESHOLD + 2, dtype=torch.uint8)
    small = storage[2 : 2 + THRESHOLD].view(torch.int16)
    bytes_only = storage[1 : 1 + THRESHOLD]
    turned = torch.randn(64, 32).t()
    staged = items(small, bytes_only, turned)
    staging.stage(staged, ring, THRESHOLD)
    assert all(ring.holds(tensor) for tensor in payloads(staged))
    assert torch.equal(payloads(staged)[2], turned)


def test_nested_lists_small_tensors_and_numbers_keep_their_places(ring: Ring) -> None:
    small, large = torch.ones(3), torch.randn(THRESHOLD)
    staged = items([small, [large, 7], 0.5], None)
    staging.stage(staged, ring, THRESHOLD)
    found = payloads(staged)
    assert found[0][0] is small
    assert ring.holds(found[0][1][0])
    assert found[0][1][1:] == [7]
    assert found[0][2] == 0.5
    assert found[1] is None


def test_an_item_that_the_engine_has_is_passed_over(ring: Ring) -> None:
    staging.stage({"image": [None, None]}, ring, THRESHOLD)
    assert ring.statistics().writer.writes == 0


def test_what_is_staged_already_is_not_written_again(ring: Ring) -> None:
    staged = items(*torch.randn(2, 64, 64))
    staging.stage(staged, ring, THRESHOLD)
    first = payloads(staged)
    staging.stage(staged, ring, THRESHOLD)
    assert all(ours is theirs for ours, theirs in zip(payloads(staged), first, strict=True))
    assert ring.statistics().writer.writes == 1


def test_fields_forget_the_slices_by_which_a_batch_was_cut(ring: Ring) -> None:
    batch = torch.randn(3, 3, 32, 32)
    field = FlatField([slice(number, number + 1) for number in range(3)], dim=0)
    staged = {"image": [{"pixel_values": Element(batch[where], field)} for where in field.slices]}
    staging.stage(staged, ring, THRESHOLD)
    (ours,) = {id(item["pixel_values"].field): item["pixel_values"].field for item in staged["image"]}.values()
    assert ours == FlatField((), dim=0)
    assert len(field.slices) == 3  # vLLM's own is not written to
    assert torch.equal(ours.reduce_data([item["pixel_values"] for item in staged["image"]]), batch)


@pytest.mark.parametrize(
    "field", [FieldThatMergesBySlices([slice(0, 1)]), SimpleNamespace(slices=[slice(0, 1)]), SimpleNamespace()]
)
def test_a_field_that_may_need_its_slices_stays_as_it_is(ring: Ring, field: Any) -> None:
    before = copy.deepcopy(field)
    element = Element(torch.randn(THRESHOLD), field)
    staging.stage({"image": [{"pixel_values": element}]}, ring, THRESHOLD)
    assert ring.holds(element.data)
    assert element.field is field
    assert field == before


def test_without_room_the_tensors_stay_what_they_were_and_it_is_counted(ring: Ring) -> None:
    tensor = torch.zeros(2 << 20, dtype=torch.uint8)
    staged = items(tensor)
    staging.stage(staged, ring, THRESHOLD)
    assert payloads(staged)[0] is tensor
    assert ring.statistics().inline == {"full": 1}


def test_a_ring_grows_before_it_is_needed_and_only_to_its_capacity() -> None:
    with Ring.create("4MiB", segment="1MiB") as ring:
        growth = GrowsAhead(ring)
        held: list[torch.Tensor] = []
        wait_until(lambda: ring.statistics().segments == 2)  # before the first write
        for segments in (2, 3, 4, 4):
            held.append(ring.put(torch.zeros(1 << 20, dtype=torch.uint8)))
            growth.look()
            wait_until(lambda expected=segments: ring.statistics().segments == expected)  # type: ignore[misc]
        assert all(ring.holds(tensor) for tensor in held)
        growth.end()


class Inner:
    """As vLLM's TensorIpcSender."""

    def __init__(self) -> None:
        self.messages = 0
        self.asked: list[torch.Tensor] = []

    def new_message(self) -> None:
        self.messages += 1

    def __call__(self, tensor: torch.Tensor) -> dict[str, Any]:
        self.asked.append(tensor)
        return {"inner": True}


def settings() -> Settings:
    return Settings.from_environment({"SHMTRANSPORT_THRESHOLD": str(THRESHOLD)})


def test_the_consumer_answers_for_the_ring_and_leaves_the_rest_to_the_inner_one(ring: Ring) -> None:
    inner = Inner()
    consumer = Consumer(THRESHOLD, inner)
    consumer.ring = ring
    backed, other, small = ring.put(torch.randn(THRESHOLD)), torch.randn(THRESHOLD), ring.put(torch.ones(8))
    sent = consumer.begin(ring.peer_id)
    consumer.new_message()
    answers = [consumer(tensor) for tensor in (backed, other, small)]
    consumer.end()
    assert inner.messages == 1
    assert [tensor is expected for tensor, expected in zip(inner.asked, (other, small), strict=True)] == [True, True]
    assert answers == [{rings.KEY: bytes(sent[0])}, {"inner": True}, {"inner": True}]
    assert consumer(backed) == {"inner": True}  # no request is being encoded
    assert ring.revoke(sent[0])


def test_the_consumer_sends_no_handle_to_an_engine_that_has_not_joined(ring: Ring) -> None:
    consumer = Consumer(THRESHOLD, None)
    consumer.ring = ring
    backed = ring.put(torch.randn(THRESHOLD))
    consumer.begin(None)
    assert consumer(backed) is None
    assert ring.statistics().inline == {"not_joined": 1}


def test_an_engine_opens_what_a_consumer_answered(ring: Ring) -> None:
    engine = core.Engine(settings())
    answer = engine.join(None, ring.id, VERSION)
    consumer = Consumer(THRESHOLD, None)
    consumer.ring = ring
    tensor = ring.put(torch.randn(8, THRESHOLD))
    consumer.begin(answer["peer_id"])
    meta = consumer(tensor[3:])
    assert meta is not None
    opened = engine("float32", (5, THRESHOLD), meta)
    assert engine.take_error() is None
    assert torch.equal(opened, tensor[3:])
    assert opened.untyped_storage().nbytes() == opened.nbytes  # pickled it would carry its own bytes only
    assert opened.data_ptr() == tensor[3:].data_ptr()  # this process is the writer: the very same memory


@pytest.mark.parametrize(
    ("dtype", "shape", "meta", "says"),
    [
        ("float32", (2, 3), {rings.KEY: b"no handle"}, "expected a handle of at least"),
        ("float32", (2, 3), {rings.KEY: None}, ""),
        ("float32", (2, 3), {"sender_id": "x"}, "a way that is not set up here"),
        ("no_such_dtype", (2, 3), {}, "a way that is not set up here"),
        ("float32", (-1, 3), {}, "a way that is not set up here"),
        ("float32", (1 << 40, 1 << 10), {}, "a way that is not set up here"),
    ],
)
def test_the_engine_never_raises_while_it_decodes_but_afterwards(
    dtype: str, shape: tuple[int, ...], meta: dict[str, Any], says: str
) -> None:
    engine = core.Engine(settings())
    placeholder = engine(dtype, shape, meta)
    assert placeholder.untyped_storage().nbytes() <= 8
    error = engine.take_error()
    assert error is not None
    assert says in str(error)
    assert engine.take_error() is None


def test_a_placeholder_has_the_dtype_and_shape_that_were_announced() -> None:
    placeholder = core.Engine(settings())("bfloat16", (5, 7), {})
    assert (placeholder.dtype, tuple(placeholder.shape)) == (torch.bfloat16, (5, 7))


def test_a_handle_of_another_shape_or_dtype_than_announced_is_refused(
    ring: Ring, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Reader, "join", join_as_if_another_process)
    engine = core.Engine(settings())
    peer_id = engine.join(None, ring.id, VERSION)["peer_id"]
    wire = bytes(ring.share(ring.put(torch.randn(8, 512)), peer_id))
    engine("float32", (512, 8), {rings.KEY: wire})
    assert isinstance(engine.take_error(), HandleError)
    wait_until(lambda: ring.statistics().blocks == 0)  # it was refused, so nothing waits for it


@pytest.mark.parametrize("ring_id", ["0" * 32, "nonsense"])
def test_an_engine_answers_why_it_cannot_join(ring_id: str) -> None:
    assert core.Engine(settings()).join(None, ring_id, VERSION).keys() == {"error"}


def test_an_engine_of_another_handle_version_does_not_join(ring: Ring) -> None:
    assert "version" in core.Engine(settings()).join(None, ring.id, VERSION + 1)["error"]
