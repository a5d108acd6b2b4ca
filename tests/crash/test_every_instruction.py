"""A process is killed after each instruction of put (without the copy), share, open, release, reap and join, and all
others recover: steps.c says how, this compiles it and says what of its answers is right.

Without ``--every-instruction`` (`make crash-full`) the later rounds of the one long loop, join's look at 2048
tickets, are sampled: one in STRIDE, beginning at a place that the seed decides.
"""

import json
import random
import subprocess
from pathlib import Path

import pytest

from shmtransport.config import BACKINGS, BackingName
from tests.support import ROOT, compile_c

DENSE = 64
STRIDE = 97
FLAGS = "-std=gnu11 -O2 -g -Wall -Wextra -Werror -pthread -rdynamic -Wl,-z,now".split()


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program, made of steps*.c and the core's own sources."""
    program = tmp_path_factory.mktemp("steps") / "steps"
    sources = sorted([*(ROOT / "csrc").glob("*.c"), *(ROOT / "tests" / "crash").glob("*.c")])
    compile_c(*FLAGS, "-I", ROOT / "csrc", *sources, "-o", program)
    return program


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("backing", BACKINGS)
@pytest.mark.parametrize("operation", ["put", "share", "open", "release", "reap", "join"])
def test_everybody_recovers_after_whichever_instruction_one_is_killed(
    steps: Path,
    backing: BackingName,
    operation: str,
    rng: random.Random,
    request: pytest.FixtureRequest,
    capsys: pytest.CaptureFixture[str],
) -> None:
    every = request.config.getoption("--every-instruction")
    dense, stride = (1 << 30, 1) if every else (DENSE, STRIDE)
    command: list[str | Path] = [steps, backing, operation, str(dense), str(stride), str(rng.randrange(stride))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    with capsys.disabled():
        print(f"\n{done.stdout.strip()}", end="")
    assert found["killed"] > 200
    assert found["missed"] <= found["killed"] / 20
    if every:
        assert found["killed"] + found["missed"] == found["instructions"]
    assert found["transfer_us_after"] <= 4 * found["transfer_us_before"]
