"""What the queue's README says beyond its figures: several producers, fork, an early exit, read-only arrays."""

import contextlib
import multiprocessing
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from examples.queue.tensor_queue import TensorQueue

COUNT = 5
NBYTES = 1 << 20


@pytest.fixture
def queue() -> Iterator[TensorQueue]:
    with contextlib.closing(TensorQueue("16MiB")) as queue:
        yield queue


def produce(queue: TensorQueue, producer: int) -> None:
    """Puts, and exits without waiting for anybody."""
    torch.set_num_threads(1)  # a fork inherits no OpenMP threads, only the belief in them
    for number in range(COUNT):
        queue.put((producer, number, torch.full((NBYTES,), number, dtype=torch.uint8)))


@pytest.mark.timeout(120)
@pytest.mark.parametrize("start", ["spawn", "fork"])
def test_what_several_producers_put_arrives_from_each_in_order_though_they_exit_at_once(
    queue: TensorQueue, start: str
) -> None:
    context = multiprocessing.get_context(start)
    producers = [context.Process(target=produce, args=(queue, index), daemon=True) for index in range(2)]  # type: ignore[attr-defined]
    for producer in producers:
        producer.start()
    seen: dict[int, list[int]] = {0: [], 1: []}
    for _ in range(2 * COUNT):
        index, number, tensor = queue.get(timeout=60)
        assert tensor.numel() == NBYTES
        assert (tensor == number).all()
        seen[index].append(number)
        del tensor
    for producer in producers:
        producer.join(30)
        assert producer.exitcode == 0
    assert seen == {0: list(range(COUNT)), 1: list(range(COUNT))}


@pytest.mark.timeout(120)
def test_an_array_that_one_gets_is_read_only(queue: TensorQueue) -> None:
    producer = multiprocessing.get_context("spawn").Process(target=put_arrays, args=(queue,), daemon=True)
    producer.start()
    first, second = (queue.get(timeout=60) for _ in range(2))
    assert first.sum() == 0
    assert second.sum() == NBYTES
    with pytest.raises(ValueError, match="read-only"):
        second[0] = 7
    del first, second
    producer.join(30)
    assert producer.exitcode == 0


def put_arrays(queue: TensorQueue) -> None:
    """The second is put when the consumer has joined."""
    queue.put(np.zeros(NBYTES, np.uint8))
    assert queue._end is not None
    queue._end.channel.join(timeout_s=30)
    queue.put(np.ones(NBYTES, np.uint8))
