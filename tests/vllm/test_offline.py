"""Real vLLM, offline, on real photographs, with the plugin off and on: the same answers, and by handle."""

import statistics
from collections.abc import Callable
from typing import Any

import pytest

from tests.vllm.serving import Served

pytestmark = pytest.mark.timeout(900)  # a scenario is served in the first test that looks at it

Serve = Callable[[str], Served]
IMAGE_NBYTES = 3 * 896 * 896 * 4
FORGERIES = {
    "of a ring nobody knows": "has not joined",
    "of an older generation": "",
    "beyond its block": "",
    "of another shape": "the handle is of float32",
    "damaged": "checksum",
    "no handle at all": "expected a handle of at least",
}


def largest_difference(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> float:
    """Of the logprobs of tokens that both answers list, over the steps up to where their tokens part."""
    found = 0.0
    for first, second in zip(one, other, strict=True):
        for ours, theirs in zip(first["logprobs"], second["logprobs"], strict=False):
            known = {token: float.fromhex(value) for token, value in theirs}
            found = max([found, *(abs(float.fromhex(v) - known[token]) for token, v in ours if token in known)])
    return found


@pytest.mark.parametrize("asked", ["one", "one_again", "ten", "one_replaced", "ten_with_one_replaced", "text"])
@pytest.mark.parametrize("scenario", ["on", "full"])
def test_a_request_alone_gets_bit_identical_logprobs(serve: Serve, scenario: str, asked: str) -> None:
    off, on = serve("off").result["answers"][asked], serve(scenario).result["answers"][asked]
    assert off[0]["logprobs"]
    assert on == off


@pytest.mark.parametrize("scenario", ["on", "full"])
def test_requests_in_a_batch_get_the_same_tokens(serve: Serve, scenario: str) -> None:
    off, on = serve("off").result["answers"]["batch"], serve(scenario).result["answers"]["batch"]
    assert len(off) == 4
    assert [answer["token_ids"] for answer in on] == [answer["token_ids"] for answer in off]


@pytest.mark.parametrize(("asked", "replaced"), [("one", "one_replaced"), ("ten", "ten_with_one_replaced")])
@pytest.mark.parametrize("scenario", ["off", "on"])
def test_another_image_moves_the_logprobs(serve: Serve, scenario: str, asked: str, replaced: str) -> None:
    answers = serve(scenario).result["answers"]
    assert largest_difference(answers[asked], answers[replaced]) > 1e-3


@pytest.mark.parametrize("scenario", ["on", "full"])
def test_the_engine_core_gets_the_frontends_pixels(serve: Serve, scenario: str) -> None:
    served = serve(scenario)
    sent = {name: request["digests"] for name, request in served.result["requests"].items() if request["digests"]}
    assert sum(map(len, sent.values())) == 1 + 9 + 1 + 8  # images that the cache had not seen
    assert {name: served.decoded[name]["digests"] for name in sent} == sent


def test_ten_images_cross_in_less_than_16_kib(serve: Serve) -> None:
    assert serve("off").result["measured"]["hop1_wire_nbytes"] > 10 * IMAGE_NBYTES
    assert serve("on").result["measured"]["hop1_wire_nbytes"] < 16 << 10


def test_every_tensor_goes_by_handle_and_a_batch_is_one_write(serve: Serve) -> None:
    ring = serve("on").result["ring"]
    assert ring["inline"] == {}
    assert ring["opened"] == ring["shared"] == ring["images"]
    assert ring["writes"] == ring["requests"] < ring["images"]


def hop1_seconds(served: Served) -> float:
    """From the client's add_request until the core has decoded it, and the staging before; the median request."""
    requests = served.result["requests"]
    seconds: float = statistics.median(
        served.decoded[name]["decoded_s"] - requests[name]["sent_s"] + staged_s
        for name, _, staged_s in served.result["measured"]["rows"]
    )
    return seconds


def test_the_first_hop_of_ten_images_is_faster_by_handle(
    serve: Serve, record_property: Callable[[str, object], None]
) -> None:
    off, on = hop1_seconds(serve("off")), hop1_seconds(serve("on"))
    staged = serve("on").result["measured"]["staged_s"]
    record_property("hop1_seconds", {"off": off, "on": on, "of which staging": staged})
    print(
        f"\nhop 1 of ten images: off {off * 1e3:.1f} ms, on {on * 1e3:.1f} ms, of which staging {staged * 1e3:.1f} ms"
    )
    assert on < off


def test_without_room_requests_go_inline_and_are_counted(serve: Serve) -> None:
    ring = serve("full").result["ring"]
    assert ring["inline"]["full"] > 0
    assert ring["shared"] > 0
    assert ring["opened"] == ring["shared"]


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_forged_handle_fails_its_request_and_the_next_is_served(serve: Serve, forgery: str) -> None:
    served = serve("on")
    found = served.result["forged"][forgery]
    assert found["refused"]["finish_reason"] == "error"
    assert found["served"]["finish_reason"] == "length"
    assert len(found["served"]["token_ids"]) == 4
    assert FORGERIES[forgery] in served.log


def test_an_engine_without_the_plugin_is_served_inline_with_one_warning(serve: Serve) -> None:
    served = serve("alone")
    assert served.result["answers"]["one"] == serve("off").result["answers"]["one"]
    assert served.result["ring"]["shared"] == 0
    assert served.result["ring"]["inline"]["not_joined"] > 0
    assert served.log.count("it did not join") == 1


@pytest.mark.parametrize("scenario", ["on", "full"])
def test_one_line_says_that_it_is_on(serve: Serve, scenario: str) -> None:
    assert serve(scenario).log.count("shmtransport is on") == 1
    assert "shmtransport is off" not in serve(scenario).log


def test_switched_off_it_says_nothing(serve: Serve) -> None:
    assert "shmtransport is o" not in serve("off").log


@pytest.mark.parametrize("scenario", ["off", "on", "full", "alone"])
def test_nothing_is_left_in_shared_memory(serve: Serve, scenario: str) -> None:
    assert serve(scenario).left == set()
