"""Each example runs as its README says, verifies what arrived, prints what it saved, and leaves nothing behind."""

import os
import re
import subprocess
import sys

import pytest

from tests.support import ROOT, segment_names, wait_until

EXAMPLES = (
    "engine.measure",
    "queue.measure",
    "dataloader.measure",
    "broadcast.broadcast",
    "in_place.with_pillow",
    "embeddings.embeddings",
    "video.video",
)
TIMEOUT_S = 150.0
WAY = re.compile(r'^shmtransport, on_full="(\w+)": (.+)$', re.M)
COUNT = re.compile(r"(\d+) ([a-z ]+)")
RATIO = re.compile(r"^  .+: [\d.]+ ms, ([\d.]+) x$", re.M)


@pytest.mark.timeout(TIMEOUT_S + 30)
@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_prints_what_it_saved_and_leaves_nothing(example: str) -> None:
    before = segment_names()
    done = subprocess.run(
        [sys.executable, "-m", f"examples.{example}"],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=TIMEOUT_S,
        check=False,
    )  # fmt: skip
    print(f"\n{done.stdout}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert RATIO.findall(done.stdout), "no ratio was printed"
    assert "CPUs, Linux" in done.stdout
    wait_until(lambda: segment_names() <= before)


@pytest.mark.timeout(TIMEOUT_S + 30)
def test_each_answer_to_a_full_ring_is_seen() -> None:
    """The reader takes twice as long as the camera, and the ring has room for a fifth of the frames."""
    done = subprocess.run(
        [sys.executable, "-m", "examples.video.video"],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=TIMEOUT_S,
        check=True,
    )  # fmt: skip
    seen = {
        way: {what: int(count) for count, what in COUNT.findall(counts)} for way, counts in WAY.findall(done.stdout)
    }
    assert seen["inline"]["inline"] > 0
    assert (
        seen["inline"]["dropped"] == seen["block"]["inline"] == seen["block"]["dropped"] == seen["raise"]["inline"] == 0
    )
    assert seen["raise"]["dropped"] > 0
    assert seen["block"]["by handle"] > seen["raise"]["by handle"]


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_readme_of_an_example_says_how_to_run_it(example: str) -> None:
    folder = example.partition(".")[0]
    command = f"python -m examples.{example}\n"
    assert command in (ROOT / "examples" / folder / "README.md").read_text()
    assert f"]({folder}/README.md)" in (ROOT / "examples" / "README.md").read_text()
