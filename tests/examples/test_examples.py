"""Each example runs as its README says, verifies what arrived, prints what it saved, and leaves nothing behind."""

import re

import pytest

from tests.examples.running import TIMEOUT_S, run
from tests.support import ROOT

EXAMPLES = (
    "engine.measure",
    "queue.measure",
    "dataloader.measure",
    "broadcast.broadcast",
    "in_place.with_pillow",
    "embeddings.embeddings",
    "video.video",
)
ELSEWHERE = ("in_place.with_torchvision",)
"""Run by tests/vllm, where torchvision is installed."""
WAY = re.compile(r'^shmtransport, on_full="(\w+)": (.+)$', re.M)
COUNT = re.compile(r"(\d+) ([a-z ]+)")


@pytest.mark.timeout(TIMEOUT_S + 30)
@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_prints_what_it_saved_and_leaves_nothing(example: str) -> None:
    printed = run(example)
    if example == "video.video":
        check_answers_to_a_full_ring(printed)


def check_answers_to_a_full_ring(printed: str) -> None:
    """Each is seen: the reader takes twice as long as the camera, and the ring has room for a fifth of the frames."""
    seen = {
        way: {what: int(count) for count, what in COUNT.findall(counts)} for way, counts in WAY.findall(printed)
    }  # fmt: skip
    assert seen["inline"]["inline"] > 0
    assert (
        seen["inline"]["dropped"] == seen["block"]["inline"] == seen["block"]["dropped"] == seen["raise"]["inline"] == 0
    )
    assert seen["raise"]["dropped"] > 0
    assert seen["block"]["by handle"] > seen["raise"]["by handle"]


@pytest.mark.parametrize("example", EXAMPLES + ELSEWHERE)
def test_the_readme_of_an_example_says_how_to_run_it(example: str) -> None:
    folder = example.partition(".")[0]
    command = f"python -m examples.{example}\n"
    assert command in (ROOT / "examples" / folder / "README.md").read_text()
    assert f"]({folder}/README.md)" in (ROOT / "examples" / "README.md").read_text()
