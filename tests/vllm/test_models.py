"""Three families on real vLLM, with the plugin off and on: the same answers from the same pixels, by handle.

vLLM's prefix caching, chunked prefill and continuous batching are on, as by default.
"""

from collections.abc import Callable
from typing import Any

import pytest

from tests.vllm.comparing import (
    IMAGE_NBYTES,
    THE_SAME,
    assert_by_handle,
    assert_read_only,
    assert_same_pixels,
    largest_difference,
    messages,
    requests_of,
    spread,
)
from tests.vllm.serving import Served

pytestmark = pytest.mark.timeout(900)  # a run is made in the first test that looks at it

Serve = Callable[[str], Served]

RUNS = {
    "llava": ("off", "on"),
    "qwen2_5_vl": ("qwen2_5_vl off", "qwen2_5_vl on"),
    "gemma3": ("gemma3 off", "gemma3 on"),
}
WAYS = 4
"""Requests of `asking.ask_in_several_ways`."""
FIRST = {
    "llava": THE_SAME,
    "qwen2_5_vl": (
        *("one", "one_again", "one_replaced", "ten", "ten_with_one_replaced", "chat"),
        *("video", "video_again", "video_replaced", "videos_at_once"),
    ),
    "gemma3": (
        *("one", "one_again", "one_replaced", "ten", "fifty"),
        *("hundred", "hundred_with_one_replaced", "chat"),
    ),
}
"""What each family is asked before its ring is looked at."""
ALONE = {
    family: [
        *(name for name in (*questions, "chat") if name not in ("batch", "videos_at_once")),
        *(f"alone_{number}" for number in range(WAYS)),
    ]
    for family, questions in FIRST.items()
}
REPLACED = [
    ("llava", "one", "one_replaced"),
    ("llava", "ten", "ten_with_one_replaced"),
    ("qwen2_5_vl", "one", "one_replaced"),
    ("qwen2_5_vl", "ten", "ten_with_one_replaced"),
    ("qwen2_5_vl", "video", "video_replaced"),
    ("gemma3", "one", "one_replaced"),
    ("gemma3", "hundred", "hundred_with_one_replaced"),
]
families = pytest.mark.parametrize("family", RUNS)


def answers(serve: Serve, family: str) -> list[dict[str, Any]]:
    """With the plugin off, and on."""
    return [serve(run).result["answers"] for run in RUNS[family]]


@pytest.mark.parametrize(
    ("family", "asked"), [(family, asked) for family in RUNS for asked in dict.fromkeys(ALONE[family])]
)
def test_a_request_alone_gets_bit_identical_logprobs(serve: Serve, family: str, asked: str) -> None:
    off, on = answers(serve, family)
    assert len(off[asked]) == 1
    assert off[asked][0]["logprobs"]
    assert on[asked] == off[asked]


@families
def test_requests_computed_together_get_bit_identical_logprobs(serve: Serve, family: str) -> None:
    off, on = answers(serve, family)
    assert len(off["together"]) == WAYS
    assert on["together"] == off["together"]


def in_several_ways(found: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    return {
        "alone": [found[f"alone_{number}"][0] for number in range(WAYS)],
        "at once": found["at_once"],
        "reversed": found["reversed"][::-1],
        "together": found["together"],
    }


@families
def test_requests_at_once_get_the_same_tokens_and_logprobs_no_farther_than_other_batches_are(
    serve: Serve, family: str
) -> None:
    off, on = map(in_several_ways, answers(serve, family))
    known = spread(off.values())
    for way in ("at once", "reversed"):
        assert [answer["token_ids"] for answer in on[way]] == [answer["token_ids"] for answer in off[way]]
        assert largest_difference(on[way], off[way]) <= known


@pytest.mark.parametrize(("family", "asked", "replaced"), REPLACED)
def test_another_image_moves_the_logprobs(serve: Serve, family: str, asked: str, replaced: str) -> None:
    for found in answers(serve, family):
        assert largest_difference(found[asked], found[replaced]) > 1e-3


@families
def test_the_engine_core_and_its_worker_get_the_frontends_pixels(serve: Serve, family: str) -> None:
    served = serve(RUNS[family][1])
    digested = {name: found for name, found in served.result["requests"].items() if found["digests"]}
    assert_same_pixels(served, digested)


@families
def test_every_image_goes_by_handle_to_the_engine_core_and_to_its_worker(serve: Serve, family: str) -> None:
    served = serve(RUNS[family][1])
    assert_by_handle(served, served.result["first"], requests_of(served.result, FIRST[family]))


@pytest.mark.parametrize(("run", "asked"), [("off", "fifty"), ("gemma3 off", "hundred")])
def test_without_the_plugin_the_pixels_are_in_both_messages(serve: Serve, run: str, asked: str) -> None:
    served = serve(run)
    requests = requests_of(served.result, [asked])
    sizes = [nbytes for _, nbytes in messages(served, requests)]
    assert len(sizes) == 2
    assert min(sizes) > sum(request["images"] for request in requests.values()) * IMAGE_NBYTES


def test_images_of_different_sizes_are_sent_as_they_are(serve: Serve) -> None:
    found = serve("qwen2_5_vl off").result["requests"]
    (asked,) = serve("qwen2_5_vl off").result["asked"]["ten"]
    assert len(set(found[asked]["pixels_nbytes"])) > 3


@families
def test_only_the_frontend_maps_blocks_writable(serve: Serve, family: str) -> None:
    assert_read_only(serve(RUNS[family][1]).result["first"])


@families
def test_nothing_is_left_in_shared_memory(serve: Serve, family: str) -> None:
    assert [serve(run).left for run in RUNS[family]] == [set(), set()]
