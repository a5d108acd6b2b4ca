"""Real vLLM whose worker or EngineCore is killed in the middle of a request, with the plugin off and on.

`test_server.py` kills a frontend.
"""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from shmtransport import segment
from tests.vllm.programs import Told, poll

pytestmark = pytest.mark.timeout(600)  # the first test waits for all kills

MOMENTS = {"worker": "after its first token", "engine": "when it was sent"}
"""Of the request when each is killed: pixels are held by both; handles are on their way."""
SLACK_S = 1.0
"""vLLM looks after its engine once a second."""


class Killed(NamedTuple):
    """What was seen of one kill."""

    error: str | None
    """What the request failed with."""
    seconds: float
    """From the kill until then."""
    ring: str | None
    rings_later: set[str]
    """What is there after the next start; after the last kill, when the frontend has ended."""


Kills = dict[str, dict[str, Killed]]


@pytest.fixture(scope="session")
def killed(checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Kills:
    """By plugin, then by who was killed. Both programs load at the same time; the kills are one by one."""
    folder = tmp_path_factory.mktemp("killing")

    def program(scenario: str) -> Told:
        return Told(scenario, folder, "tests.vllm.killing", checkpoint("llava"))

    kills: Kills = {"off": {}, "on": {}}
    with program("off") as off, program("on") as on:
        programs = {"off": off, "on": on}
        for who, moment in MOMENTS.items():
            for each in programs.values():
                each.tell("start")
            started = {plugin: each.answer() for plugin, each in programs.items()}
            look_for_rings(kills)
            for plugin, each in programs.items():
                kills[plugin][who] = kill(each, started[plugin], who, moment)
        for each in programs.values():
            each.hang_up()
        assert {each.wait() for each in programs.values()} == {0}
        look_for_rings(kills)
    return kills


def kill(program: Told, started: dict[str, Any], who: str, moment: str) -> Killed:
    """Kills ``who`` at ``moment``, and waits until the engine and its worker have ended."""
    program.do("ask", moment)
    os.kill(started[who], signal.SIGKILL)
    killed_s = time.monotonic()
    outcome = program.do("outcome")
    program.do("shutdown")
    ended = {started["engine"], started["worker"]}
    poll(lambda: ended.isdisjoint(process.pid for process in program.alive()))
    return Killed(outcome["error"], outcome.get("raised_s", killed_s) - killed_s, started["ring"], set())


def look_for_rings(kills: Kills) -> None:
    """For the last kill of each program."""
    for of_one in kills.values():
        for who in list(of_one)[-1:]:
            of_one[who] = of_one[who]._replace(rings_later=set(segment.rings()))


@pytest.mark.parametrize("who", MOMENTS)
def test_the_request_fails_with_vllms_own_error_in_its_usual_time(killed: Kills, who: str) -> None:
    off, on = killed["off"][who], killed["on"][who]
    print(f"\n{who} killed: {off.error} after {off.seconds:.2f} s off, after {on.seconds:.2f} s on")
    assert on.error == off.error == "EngineDeadError"
    assert on.seconds <= off.seconds + SLACK_S


@pytest.mark.parametrize("who", MOMENTS)
def test_later_no_segment_of_the_dead_is_there(killed: Kills, who: str) -> None:
    on = killed["on"][who]
    assert on.ring is not None
    assert on.ring not in on.rings_later
    assert killed["off"][who].ring is None
