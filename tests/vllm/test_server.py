"""vLLM's HTTP servers and the ``openai`` client, on real photographs, with the plugin off and on."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import cache
from itertools import combinations, cycle, islice
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from shmtransport import Ring, sweep
from shmtransport.statistics import RingStatistics
from tests.support import segment_names
from tests.vllm.programs import poll
from tests.vllm.server import (
    SERVE,
    SINGLE,
    Metrics,
    Server,
    by_base64,
    by_file,
    image,
    photographs_by_http,
    rings,
    text,
)

pytestmark = pytest.mark.timeout(600)  # a server answers all questions in the first test that looks at it

Questions = dict[str, list[dict[str, Any]]]
WAYS = ("http", "base64", "file")
ASKED = text("What is in this image?")
STRANGER = "no part of any vLLM"
SCRAPES = 20
AT_ONCE = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "ihc.png", "retina.jpg", "coins.png", "moon.png")


class Served(NamedTuple):
    """What servers answered, and what was left of them."""

    answers: dict[str, dict[str, Any]]
    """By question."""
    rings: list[RingStatistics]
    """When all was answered."""
    ended: int | str
    """The exit status after SIGTERM; of a frontend that was killed, what its client said."""
    log: str
    left: set[str]
    """Segments in /dev/shm that were not there before they started."""
    metrics: "Scrapes"


class Scrapes(NamedTuple):
    """What /metrics said, while this process had a ring of its own."""

    before: Metrics
    after_text: Metrics
    at_last: list[Metrics]
    """So many that each API server has answered one, as good as certainly."""


def about_llava(http: str) -> Questions:
    """Each photograph in one way, so that its pixels are sent; then one of them, which vLLM's cache has, in all."""
    return {
        "http astronaut": [image(f"{http}/astronaut.png"), ASKED],
        "http rocket": [image(f"{http}/rocket.jpg"), ASKED],
        "base64 coffee": [by_base64("coffee.png"), ASKED],
        "base64 retina": [by_base64("retina.jpg"), ASKED],
        "file chelsea": [by_file("chelsea.png"), ASKED],
        "file ihc": [by_file("ihc.png"), ASKED],
        "one in each way": [image(f"{http}/coins.png"), by_base64("moon.png"), by_file("camera.png"), ASKED],
        "base64 astronaut": [by_base64("astronaut.png"), ASKED],
        "file astronaut": [by_file("astronaut.png"), ASKED],
    }


def about_qwen(http: str) -> Questions:
    first, second = by_base64("astronaut.png"), by_base64("coffee.png")
    return {
        "text between": [first, text("Compare it with"), second, ASKED],
        "the other way round": [second, text("Compare it with"), first, ASKED],
    }


def about_gemma(http: str) -> Questions:
    return {"astronaut": [by_base64("astronaut.png"), ASKED], "coffee": [by_base64("coffee.png"), ASKED]}


FAMILIES = {"llava": (about_llava, 9), "qwen2_5_vl": (about_qwen, 2), "gemma3": (about_gemma, 2)}
"""The questions, and of how many images the pixels are sent."""
KILLED = "gemma3"
"""The family whose frontends are killed while they answer; all others end by SIGTERM."""


@pytest.fixture(scope="session")
def http() -> Iterator[str]:
    with photographs_by_http() as url:
        yield url


@pytest.fixture(scope="session")
def both(
    http: str, checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], dict[str, Served]]:
    """What two servers of a family say, one with the plugin off and one with it on. They load at the same time."""

    @cache
    def serve(family: str) -> dict[str, Served]:
        folder = tmp_path_factory.mktemp(f"server_{family}")
        questions, _ = FAMILIES[family]
        before = segment_names()
        with ExitStack() as stack:
            servers = {
                plugin: stack.enter_context(Server(plugin, folder, SINGLE, checkpoint(family)))
                for plugin in ("off", "on")
            }
            for server in servers.values():
                server.wait_until_ready()
            poll(lambda: joined(rings(), 1, 2))
            asked = {plugin: ask_all(server, questions(http)) for plugin, server in servers.items()}
            answers = {plugin: answer for plugin, (answer, _) in asked.items()}
            found = {"off": [], "on": rings()}
            ended = {plugin: end(server, killed=family == KILLED) for plugin, server in servers.items()}
        left = segment_names() - before
        return {
            plugin: Served(answers[plugin], found[plugin], ended[plugin], server.log(), left, asked[plugin][1])
            for plugin, server in servers.items()
        }

    return serve


@pytest.fixture(scope="session")
def several(http: str, checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Served:
    """What two API servers with two engines say, with the plugin on; at last many are asked at once."""
    folder = tmp_path_factory.mktemp("servers")
    before = segment_names()
    two_of_each = ("--data-parallel-size", "2", "--api-server-count", "2")
    with Server("on", folder, SERVE, checkpoint("llava"), *two_of_each, bound=False) as server:
        server.wait_until_ready()
        poll(lambda: joined(rings(), 2, 4))
        answers, scrapes = ask_all(server, about_llava(http))
        with ThreadPoolExecutor(len(AT_ONCE)) as pool:
            at_once = pool.map(lambda name: server.ask(by_file(name), text("And here?")), AT_ONCE)
            answers |= dict(zip(AT_ONCE, at_once, strict=True))
        found = rings()
        scrapes = scrapes._replace(at_last=[scrape(server) for _ in range(SCRAPES)])
        ended = server.terminate()
    return Served(answers, found, ended, server.log(), segment_names() - before, scrapes)


def end(server: Server, *, killed: bool) -> int | str:
    """An engine does not end with a killed frontend, which is vLLM's own way: then it is killed as well."""
    if not killed:
        return server.terminate()
    said = server.kill_while_it_answers(*(by_base64(name) for name in islice(cycle(AT_ONCE), 50)), ASKED)
    server.kill()
    sweep()
    return said


def joined(found: list[RingStatistics], writers: int, readers: int) -> bool:
    """Whether there are so many rings, each with so many readers besides the test, which looks at them."""
    return [len(ring.processes) for ring in found] == [1 + readers + 1] * writers


def ask_all(server: Server, questions: Questions) -> tuple[dict[str, dict[str, Any]], Scrapes]:
    """The answers, with a question before them that has no image."""
    before = scrape(server)
    server.ask(text("What is a photograph?"))
    after_text = scrape(server)
    answers = {name: server.ask(*parts) for name, parts in questions.items()}
    return answers, Scrapes(before, after_text, [scrape(server)])


def scrape(server: Server) -> Metrics:
    with Ring.create("1MiB", segment="1MiB", name=STRANGER):
        return server.metrics()


def images_in(questions: Questions) -> int:
    return sum(part["type"] == "image_url" for parts in questions.values() for part in parts)


def assert_by_handle(found: list[RingStatistics], sent: int, forwarded: int) -> None:
    """So many images went to an EngineCore in all, and from there, with what its cache had, to its worker."""
    assert all(ring.inline == {} for ring in found)
    processes = [process for ring in found for process in ring.processes]
    frontends = [process for process in processes if process.role == "writer"]
    cores = [process for process in processes if process.name == "EngineCore"]
    workers = [process for process in processes if process.name.startswith("worker")]
    assert sum(process.shared for process in frontends) == sum(process.opened for process in cores) == sent
    assert sum(process.shared for process in cores) == sum(process.opened for process in workers) == forwarded


@pytest.mark.parametrize("family", FAMILIES)
def test_the_answers_are_the_same_bit_by_bit(both: Callable[[str], dict[str, Served]], family: str) -> None:
    off, on = both(family)["off"].answers, both(family)["on"].answers
    assert on == off
    assert all(answer["logprobs"] for answer in off.values())
    different = [answer for name, answer in off.items() if not name.endswith("astronaut")]
    assert all(one["logprobs"] != other["logprobs"] for one, other in combinations(different, 2))


def test_an_image_gets_the_same_answer_in_each_way(both: Callable[[str], dict[str, Served]]) -> None:
    for served in both("llava").values():
        assert len({served.answers[f"{way} astronaut"]["text"] for way in WAYS}) == 1


@pytest.mark.parametrize("family", FAMILIES)
def test_every_image_goes_by_handle_to_engine_and_worker(both: Callable[[str], dict[str, Served]], family: str) -> None:
    questions, sent = FAMILIES[family]
    assert_by_handle(both(family)["on"].rings, sent, images_in(questions("")))


@pytest.mark.parametrize("family", FAMILIES)
def test_one_line_says_that_it_is_on(both: Callable[[str], dict[str, Served]], family: str) -> None:
    assert both(family)["on"].log.count("shmtransport is on") == 1
    assert "shmtransport is off" not in both(family)["on"].log
    assert "shmtransport is o" not in both(family)["off"].log


@pytest.mark.parametrize("family", sorted(FAMILIES.keys() - {KILLED}))
def test_sigterm_leaves_nothing(both: Callable[[str], dict[str, Served]], family: str) -> None:
    off, on = both(family)["off"], both(family)["on"]
    assert on.ended == off.ended
    assert on.left == set()


def test_of_a_killed_frontend_nothing_is_left_after_a_sweep(both: Callable[[str], dict[str, Served]]) -> None:
    off, on = both(KILLED)["off"], both(KILLED)["on"]
    assert on.ended == off.ended == "APIConnectionError"
    assert on.left == set()


def test_two_api_servers_with_two_engines_give_the_same_answers(
    both: Callable[[str], dict[str, Served]], several: Served
) -> None:
    off = both("llava")["off"].answers
    assert {name: several.answers[name] for name in off} == off


def test_each_api_server_has_a_ring_and_all_images_go_by_handle(several: Served) -> None:
    assert all(ring.writer.writes > 0 for ring in several.rings)
    images = images_in(about_llava("")) + len(AT_ONCE)
    assert_by_handle(several.rings, images, images)  # here engines have no cache


def test_sigterm_leaves_nothing_of_several_either(several: Served) -> None:
    assert several.left == set()


def test_metrics_move_with_images_and_not_with_text(both: Callable[[str], dict[str, Served]]) -> None:
    served = both("llava")["on"]
    (ring,), metrics = served.rings, served.metrics
    assert rings_in(metrics.before) == {ring.ring_id[:8]}
    assert counters_of(metrics.after_text) == counters_of(metrics.before)
    assert set(counters_of(metrics.before).values()) == {0.0}
    assert_told(served, metrics.at_last[0])


def test_any_api_server_tells_of_all_and_of_no_other_deployment(several: Served) -> None:
    assert len(several.rings) == 2
    for metrics in several.metrics.at_last:
        assert_told(several, metrics)


def test_switched_off_there_are_only_the_metrics_of_vllm(both: Callable[[str], dict[str, Served]]) -> None:
    names = {name for name, _ in both("llava")["off"].metrics.at_last[0]}
    assert any(name.startswith("vllm:") for name in names)
    assert not any(name.startswith("shmtransport") for name in names)


def assert_told(served: Served, metrics: Metrics) -> None:
    """What was served is what is told: the same rings, the same counters."""
    processes = [process for ring in served.rings for process in ring.processes]
    assert rings_in(metrics) == {ring.ring_id[:8] for ring in served.rings}
    assert STRANGER not in {value for _, labels in metrics for _, value in labels}
    for name, told in {
        "written_bytes_total": sum(process.written_nbytes for process in processes),
        "shared_handles_total": sum(process.shared for process in processes),
        "opened_handles_total": sum(process.opened for process in processes),
        "copy_seconds_total": sum(process.copy_s for process in processes),
        "inline_transfers_total": 0,
        "rings": len(served.rings),
    }.items():
        values = [value for (metric, _), value in metrics.items() if metric == f"shmtransport_{name}"]
        assert sum(values) == pytest.approx(told), name
    assert all(process.copy_s > 0 for process in processes if process.role == "writer")


def counters_of(metrics: Metrics) -> Metrics:
    """Those of shmtransport."""
    return {
        place: value
        for place, value in metrics.items()
        if place[0].startswith("shmtransport_") and place[0].endswith("_total")
    }


def rings_in(metrics: Metrics) -> set[str]:
    """The first characters of the ids of those that it tells of."""
    return {dict(labels)["ring"] for name, labels in metrics if name == "shmtransport_capacity_bytes"}
