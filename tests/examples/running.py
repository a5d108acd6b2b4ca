"""An example, run as its README says."""

import os
import re
import subprocess
import sys

from tests.support import ROOT, segment_names, wait_until

TIMEOUT_S = 150.0
RATIO = re.compile(r"^  .+: [\d.]+ ms, ([\d.]+) x$", re.M)


def run(example: str) -> str:
    """What it printed: what it saved, at the least. It leaves nothing in /dev/shm."""
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
    return done.stdout
