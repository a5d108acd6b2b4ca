"""What tests look for in what a program wrote and the recorder saw."""

import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations
from typing import Any

from tests.vllm.serving import Served

THE_SAME = ("one", "one_again", "ten", "one_replaced", "ten_with_one_replaced", "batch", "fifty", "text")
"""What `asking.ask_the_same` asks."""
ALONE = tuple(name for name in THE_SAME if name != "batch")
"""Those of one request each."""

UNIT_NBYTES = 4 << 10
"""More than a message takes for a request, or for each of its images, that goes by handle."""
IMAGE_NBYTES = 3 * 896 * 896 * 4
"""Of LLaVA and Gemma 3."""

_NO_PIXELS = hashlib.sha256().hexdigest()
Answers = Sequence[dict[str, Any]]


def largest_difference(one: Answers, other: Answers) -> float:
    """Of the logprobs of tokens that both answers list, over the steps up to where their tokens part; infinite if
    there are none at a step."""
    found = 0.0
    for first, second in zip(one, other, strict=True):
        for step, (ours, theirs) in enumerate(zip(first["logprobs"], second["logprobs"], strict=False)):
            if first["token_ids"][:step] != second["token_ids"][:step]:
                break
            known = {token: float.fromhex(value) for token, value in theirs}
            moved = [abs(float.fromhex(value) - known[token]) for token, value in ours if token in known]
            found = max([found, *(moved or [math.inf])])
    return found


def spread(answers: Iterable[Answers]) -> float:
    """The largest difference of any two that answer the same questions."""
    return max(largest_difference(one, other) for one, other in combinations(answers, 2))


def requests_of(written: dict[str, Any], questions: Iterable[str]) -> dict[str, dict[str, Any]]:
    """What the frontend noted of their requests, by id."""
    return {name: written["requests"][name] for question in questions for name in written["asked"][question]}


def arrived(served: Served, rank: int, name: str) -> list[str]:
    """The digests of the pixels that a worker got with a request: there are none where only an image's size is left."""
    return [digest for digest in served.received[rank][name].digests[name] if digest != _NO_PIXELS]


def assert_same_pixels(served: Served, requests: dict[str, dict[str, Any]], ranks: Sequence[int] = (0,)) -> None:
    """The EngineCore got what the frontend sent. Each worker got that, and what the EngineCore had in its cache; but
    not the first images of a request that begins as another did: of these vLLM has the keys and values."""
    sent = {name: request["digests"] for name, request in requests.items() if request["digests"]}
    assert sent
    assert _NO_PIXELS not in (digest for digests in sent.values() for digest in digests)
    assert {name: served.decoded[name].digests for name in sent} == sent
    for name, request in requests.items():
        assert sorted(rank for rank, got in served.received.items() if name in got) == list(ranks)
        for rank in ranks:
            got = arrived(served, rank, name)
            assert got == request["all_digests"][len(request["all_digests"]) - len(got) :]
            assert bool(got) == bool(request["all_digests"])


def messages(served: Served, requests: dict[str, dict[str, Any]]) -> Iterator[tuple[int, int]]:
    """Of each message with these requests, frontend to EngineCore and EngineCore to workers: how many requests and
    images it is about, and its bytes."""
    units = {name: 1 + len(request["all_digests"]) for name, request in requests.items()}
    yield from ((units[name], request["wire_nbytes"]) for name, request in requests.items())
    passed = [message for message in served.passed if not requests.keys().isdisjoint(message.request_ids)]
    assert passed
    yield from ((sum(units.get(name, 1) for name in message.request_ids), message.wire_nbytes) for message in passed)


def assert_without_pixels(served: Served, requests: dict[str, dict[str, Any]]) -> None:
    """In none of these messages."""
    assert all(nbytes < units * UNIT_NBYTES for units, nbytes in messages(served, requests))


def assert_by_handle(
    served: Served, ring: dict[str, Any], requests: dict[str, dict[str, Any]], ranks: Sequence[int] = (0,)
) -> None:
    """``requests`` are all that went through ``ring`` until then: nothing went inline, the images of each request are
    one write, and the EngineCore and each worker opened a handle of each image that they got."""
    sent = [request["images"] for request in requests.values() if request["images"]]
    opened = {f"worker {rank}": sum(len(arrived(served, rank, name)) for name in requests) for rank in ranks}
    assert ring["inline"] == {}
    assert ring["writes"] == len(sent)
    assert ring["shared"] == sum(sent)
    assert ring["opened"] == {"EngineCore": sum(sent)} | opened
    assert_without_pixels(served, requests)


def assert_read_only(ring: dict[str, Any], ranks: Sequence[int] = (0,)) -> None:
    """Only the frontend can write into blocks."""
    readers = {name: ["r--s"] for name in ("EngineCore", *(f"worker {rank}" for rank in ranks))}
    assert ring["mapped"] == {"vLLM frontend": ["rw-s"]} | readers
