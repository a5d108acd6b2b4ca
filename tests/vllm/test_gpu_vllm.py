"""The benchmark of vLLM on GPUs, as its dry run does it: a tiny model on the CPU."""

import json
import subprocess
import sys

import pytest

from tests.support import ROOT


@pytest.mark.timeout(600)
def test_it_sees_the_same_pixels_where_the_model_runs_with_the_plugin_off_and_on() -> None:
    options = ["--shape", "tiny", "--images", "1,4", "--repetitions", "2", "--json"]
    done = subprocess.run(
        [sys.executable, ROOT / "bench" / "gpu_vllm.py", *options], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert [(row["images"], row["plugin"]) for row in rows] == [(1, False), (1, True), (4, False), (4, True)]
    assert all(row["verified"] for row in rows)
    assert all(row["payload_nbytes"] == row["images"] * 2 * 3 * 896 * 896 for row in rows)
    assert all(0 < row["transport_share"] < 1 for row in rows)
    assert all(row["hop1_seconds"] > 0 and row["receive_seconds"] > 0 and row["pin_seconds"] > 0 for row in rows)
