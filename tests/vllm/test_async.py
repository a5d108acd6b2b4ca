"""Real vLLM through its asynchronous client, on real photographs, with the plugin off and on."""

import statistics
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.support import segment_names
from tests.vllm.comparing import largest_difference, spread
from tests.vllm.programs import Told

pytestmark = pytest.mark.timeout(600)  # the first test waits for all answers

REQUESTS = 8
LAG_ROUNDS = 4
LAG_MARGIN_S = 0.002
MOMENTS = ("while its images are processed", "when it was sent", "after its first token")


class Served(NamedTuple):
    """What one program answered."""

    one_at_a_time: list[dict[str, Any]]
    at_once: list[dict[str, Any]]
    aborted: dict[str, dict[str, Any]]
    """By moment; the answers are those of the other requests."""
    lag: list[list[float]]
    """Of each round how late each tick was, in seconds."""
    ring: dict[str, Any] | None
    status: int


Both = dict[str, Served]


@pytest.fixture(scope="session")
def both(checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Both:
    """The answers with the plugin off and on, and nothing is left in /dev/shm.

    Both programs load at the same time. What is timed is done by turns: off, on, off, on.
    """
    llava = checkpoint("llava")
    folder = tmp_path_factory.mktemp("asynchronous")
    before = segment_names()
    with program("off", folder, llava) as off, program("on", folder, llava) as on:
        programs = {"off": off, "on": on}

        def ask(what: str, *arguments: object) -> dict[str, Any]:
            for each in programs.values():
                each.tell(what, *arguments)
            return {plugin: each.answer() for plugin, each in programs.items()}

        one_at_a_time = ask("one_at_a_time")
        at_once = ask("at_once")
        aborted = {moment: ask("at_once_and_abort", moment) for moment in MOMENTS}
        lag = [{plugin: each.do("lag") for plugin, each in programs.items()} for _ in range(LAG_ROUNDS)]
        ring = ask("ring")
        for each in programs.values():
            each.hang_up()
        status = {plugin: each.wait() for plugin, each in programs.items()}
    assert segment_names() <= before
    return {
        plugin: Served(
            one_at_a_time[plugin],
            at_once[plugin],
            {moment: answers[plugin] for moment, answers in aborted.items()},
            [late[plugin] for late in lag],
            ring[plugin],
            status[plugin],
        )
        for plugin in programs
    }


def program(scenario: str, folder: Path, checkpoint: Path) -> Told:
    return Told(scenario, folder, "tests.vllm.asynchronous", checkpoint)


def token_ids(answers: Iterable[dict[str, Any]]) -> list[list[int]]:
    return [answer["token_ids"] for answer in answers]


def most_at_once(answers: Iterable[dict[str, Any]]) -> int:
    """How many of them were between their first and their last token at the same time."""
    steps = [(answer["began_s"], 1) for answer in answers] + [(answer["ended_s"], -1) for answer in answers]
    running = [0]
    for _, step in sorted(steps):
        running.append(running[-1] + step)
    return max(running)


def test_requests_one_at_a_time_get_bit_identical_logprobs(both: Both) -> None:
    off, on = both["off"].one_at_a_time, both["on"].one_at_a_time
    assert len(off) == REQUESTS
    assert all(answer["logprobs"] for answer in off)
    assert largest_difference(on, off) == 0
    assert token_ids(on) == token_ids(off)


def test_other_images_get_other_logprobs(both: Both) -> None:
    answers = both["on"].one_at_a_time
    assert all(largest_difference([one], [other]) > 1e-3 for one, other in pairwise(answers))


def test_requests_at_once_get_the_same_tokens(both: Both) -> None:
    off, on = both["off"].at_once, both["on"].at_once
    assert most_at_once(off) > REQUESTS // 2
    assert most_at_once(on) > REQUESTS // 2
    assert token_ids(on) == token_ids(off)


def in_batches(served: Served) -> list[list[dict[str, Any]]]:
    """The answers of all requests but the one that is aborted, each time it was asked among others."""
    return [served.at_once[1:], *(aborted["answers"] for aborted in served.aborted.values())]


def test_requests_at_once_get_logprobs_no_further_apart_than_without_the_plugin(both: Both) -> None:
    without = [both["off"].one_at_a_time[1:], *in_batches(both["off"])]
    furthest = max(largest_difference(on, off) for on in in_batches(both["on"]) for off in without)
    assert furthest <= spread(without)


@pytest.mark.parametrize("moment", MOMENTS)
def test_when_one_request_is_aborted_the_others_get_the_same_tokens(both: Both, moment: str) -> None:
    for served in both.values():
        aborted = served.aborted[moment]
        assert aborted["ended"]
        assert (aborted["generated"] > 0) == (moment == "after its first token")
        assert token_ids(aborted["answers"]) == token_ids(both["off"].one_at_a_time[1:])


def test_every_block_came_back_and_nothing_went_inline(both: Both) -> None:
    assert both["off"].ring is None
    ring = both["on"].ring
    assert ring is not None
    assert ring["blocks"] == ring["used_nbytes"] == 0
    names = [process["name"] for process in ring["processes"]]
    assert names == ["vLLM frontend", "EngineCore", "worker 0"]
    assert all(process["leased_blocks"] == 0 and process["inline"] == {} for process in ring["processes"])
    frontend, core, worker = ring["processes"]
    assert frontend["shared"] == core["opened"] > 0
    assert core["shared"] == worker["opened"] > 0


def percentile_99(late: list[float]) -> float:
    return statistics.quantiles(late, n=100)[98]


def test_the_event_loop_is_hardly_later_than_without_the_plugin(
    both: Both, record_property: Callable[[str, object], None]
) -> None:
    for name, figure in (("median", statistics.median), ("99th percentile", percentile_99)):
        rounds = {plugin: [figure(late) for late in served.lag] for plugin, served in both.items()}
        off, on = (statistics.median(rounds[plugin]) for plugin in ("off", "on"))
        record_property(f"lag, {name}", rounds)
        print(f"\nthe event loop's lag, {name}: off {off * 1e3:.2f} ms, on {on * 1e3:.2f} ms")
        assert on <= off + LAG_MARGIN_S


def test_both_end_in_order(both: Both) -> None:
    assert {plugin: served.status for plugin, served in both.items()} == {"off": 0, "on": 0}
