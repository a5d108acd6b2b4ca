"""LLaVA on vLLM set in other ways and asked for other things: the same answers, and what goes by handle.

Where only one rank computes, the answers are those of vLLM as it is by default, without the plugin.
"""

from collections.abc import Callable
from typing import Any

import pytest

from tests.vllm.comparing import (
    ALONE,
    IMAGE_NBYTES,
    THE_SAME,
    assert_by_handle,
    assert_read_only,
    assert_same_pixels,
    assert_without_pixels,
    largest_difference,
    messages,
    requests_of,
)
from tests.vllm.serving import RUNS, Served

pytestmark = pytest.mark.timeout(900)  # a run is made in the first test that looks at it

Serve = Callable[[str], Served]

MODES = [
    ("modes on", "no_cache_arena"),
    ("modes on", "cache_shm"),
    ("modes on", "two_ranks"),
    ("modes full", "default"),
    ("modes full", "torch_shm"),
]
modes = pytest.mark.parametrize(("run", "mode"), MODES)
RESTARTED = [(run, mode) for run in ("modes on", "modes full") for mode in RUNS[run].arguments]
EMBEDS_NBYTES = 256 * 128 * 4
THRESHOLD_NBYTES = 64 << 10


def reference(serve: Serve, mode: str) -> dict[str, Any]:
    """The answers with the plugin off."""
    written = serve("modes off").result["two_ranks"] if mode == "two_ranks" else serve("off").result
    found: dict[str, Any] = written["answers"]
    return found


@pytest.mark.parametrize("asked", ALONE)
@modes
def test_a_request_alone_gets_bit_identical_logprobs(serve: Serve, run: str, mode: str, asked: str) -> None:
    off = reference(serve, mode)
    assert off[asked][0]["logprobs"]
    assert serve(run).result[mode]["answers"][asked] == off[asked]


@modes
def test_requests_at_once_get_the_same_tokens(serve: Serve, run: str, mode: str) -> None:
    off, on = reference(serve, mode)["batch"], serve(run).result[mode]["answers"]["batch"]
    assert len(off) == 4
    assert [answer["token_ids"] for answer in on] == [answer["token_ids"] for answer in off]


def test_two_ranks_look_at_the_image(serve: Serve) -> None:
    off = reference(serve, "two_ranks")
    assert largest_difference(off["one"], off["one_replaced"]) > 1e-3


@pytest.mark.parametrize(("mode", "ranks"), [("no_cache_arena", (0,)), ("two_ranks", (0, 1))])
def test_images_are_written_once_and_go_by_handle_to_all_ranks(serve: Serve, mode: str, ranks: tuple[int, ...]) -> None:
    served = serve("modes on")
    written = served.result[mode]
    requests = requests_of(written, THE_SAME)
    assert_by_handle(served, written["ring"], requests, ranks)
    assert_read_only(written["ring"], ranks)
    assert_same_pixels(served, requests, ranks)


def test_what_the_cache_has_is_not_sent_again(serve: Serve) -> None:
    assert [request["images"] for request in requests_of(serve("on").result, ["one", "one_again"]).values()] == [1, 0]


def test_without_a_cache_an_image_is_sent_again(serve: Serve) -> None:
    written = serve("modes on").result["no_cache_arena"]
    assert [request["images"] for request in requests_of(written, ["one", "one_again"]).values()] == [1, 1]


def test_without_a_cache_no_block_is_kept_for_longer_than_its_request(serve: Serve) -> None:
    assert set(serve("modes on").result["no_cache_arena"]["ring"]["leased_nbytes"].values()) == {0}


def test_vllms_own_shared_memory_cache_leaves_nothing_to_send(serve: Serve) -> None:
    served = serve("modes on")
    written = served.result["cache_shm"]
    ring = written["ring"]
    assert (ring["writes"], ring["shared"], ring["inline"]) == (0, 0, {})
    assert_without_pixels(served, requests_of(written, THE_SAME))


@pytest.mark.parametrize("mode", ["default", "torch_shm"])
def test_what_finds_no_room_goes_vllms_own_way_and_is_counted(serve: Serve, mode: str) -> None:
    served = serve("modes full")
    written = served.result[mode]
    requests = requests_of(written, THE_SAME)
    assert_same_pixels(served, requests)
    ring = written["ring"]
    assert ring["inline"]["full"] > 0
    assert 0 < ring["shared"] < sum(request["images"] for request in requests.values())
    assert ring["opened"]["EngineCore"] == ring["shared"]
    (fifty,) = requests_of(written, ["fifty"]).values()
    assert (fifty["wire_nbytes"] > 50 * IMAGE_NBYTES) == (mode == "default")


def test_three_samples_of_one_request_share_one_write(serve: Serve) -> None:
    off, on = serve("off").result, serve("on").result
    assert len({tuple(answer["token_ids"]) for answer in off["answers"]["three_samples"]}) > 1
    assert on["answers"]["three_samples"] == off["answers"]["three_samples"]
    before, after = on["samples"]
    assert after["writes"] - before["writes"] == 1
    assert after["shared"] - before["shared"] == 3 * 2
    assert after["inline"] == {}


def test_prompt_embeds_go_by_handle_to_the_engine_core_and_to_its_worker(serve: Serve) -> None:
    served = serve("on")
    requests = requests_of(served.result, ["embeds_0", "embeds_1"])
    sent = {name: request["prompt_embeds"] for name, request in requests.items()}
    assert len(set(sent.values())) == 2
    assert {name: served.decoded[name].prompt_embeds for name in sent} == sent
    assert {name: served.received[0][name].prompt_embeds[name] for name in sent} == sent
    assert_without_pixels(served, requests)
    off = serve("off")
    sizes = [nbytes for _, nbytes in messages(off, requests_of(off.result, ["embeds_0", "embeds_1"]))]
    assert min(sizes) > EMBEDS_NBYTES


@pytest.mark.parametrize("asked", ["embeds_0", "embeds_1", "before_sleep", "after_sleep"])
def test_prompt_embeds_and_an_engine_that_slept_get_bit_identical_logprobs(serve: Serve, asked: str) -> None:
    off, on = serve("off").result["answers"], serve("on").result["answers"]
    assert off[asked][0]["logprobs"]
    assert on[asked] == off[asked]


def test_other_embeddings_get_other_tokens(serve: Serve) -> None:
    off = serve("off").result["answers"]
    assert off["embeds_0"][0]["token_ids"] != off["embeds_1"][0]["token_ids"]


def test_an_engine_that_sleeps_keeps_the_last_requests_images_and_no_others(serve: Serve) -> None:
    result = serve("on").result
    (last,) = requests_of(result, ["before_sleep"]).values()
    assert result["first"]["leased_nbytes"]["EngineCore"] > 60 * IMAGE_NBYTES
    assert result["emptied"]["leased_nbytes"]["EngineCore"] <= sum(last["pixels_nbytes"])
    (again,) = requests_of(result, ["after_sleep"]).values()
    assert again["images"] == 3


def test_prompt_logprobs_are_the_same_and_come_by_handle(serve: Serve) -> None:
    off, on = serve("off").result, serve("on").result
    assert len(set(off["scored"])) == len(off["scored"])
    assert on["scored"] == off["scored"]
    assert off["returned"] == 0
    assert on["returned"] > 0


def test_embeddings_are_the_same_and_come_by_handle(serve: Serve) -> None:
    off, on = serve("modes off").result["pooling"], serve("modes on").result["pooling"]
    assert len({digest for digest, _ in off["embeddings"]}) == len(off["embeddings"])
    assert min(nbytes for _, nbytes in off["embeddings"]) > THRESHOLD_NBYTES
    assert on["embeddings"] == off["embeddings"]
    assert off["returned"] == 0
    assert on["returned"] > 0


def test_an_engine_without_the_plugin_is_served_inline_with_one_warning(serve: Serve) -> None:
    served = serve("modes full")
    written = served.result["engine_without_plugin"]
    assert written["answers"]["one"] == serve("off").result["answers"]["one"]
    assert written["ring"]["shared"] == 0
    assert written["ring"]["inline"] == {"not_joined": 1}
    assert served.log.count("it did not join") == 1


@pytest.mark.parametrize(("run", "mode"), RESTARTED)
def test_an_engine_made_anew_gets_a_ring_of_its_own_and_leaves_nothing(serve: Serve, run: str, mode: str) -> None:
    result = serve(run).result
    rings = [result[each]["ring"]["id"] for each in RUNS[run].arguments]
    assert len(set(rings)) == len(rings)
    assert result[mode]["left"] == []


@pytest.mark.parametrize("run", ["modes off", "modes on", "modes full"])
def test_nothing_is_left_in_shared_memory(serve: Serve, run: str) -> None:
    assert serve(run).left == set()
