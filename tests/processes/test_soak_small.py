"""Tens of thousands of rounds leave nothing behind; `python bench/soak_rounds.py` runs a million of them."""

import json
import os
import subprocess
import sys
from typing import Any

from tests.support import BACKING, ROOT

SOAK = ROOT / "bench" / "soak_rounds.py"


def soak(**settings: int) -> dict[str, Any]:
    environment = {**os.environ, **{name: str(value) for name, value in settings.items()}}
    done = subprocess.run(
        [sys.executable, str(SOAK)], env=environment, capture_output=True, text=True, timeout=55, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_memory_descriptors_mappings_and_names_stay_as_they_are_over_60_000_rounds() -> None:
    result = soak(ROUNDS=60_000, SETTLED=20_000)
    assert result["writes"] == 60_000
    for role in ("writer", "reader"):
        before, after = result["before"][role], result["after"][role]
        assert after["rss_nbytes"] - before["rss_nbytes"] <= 1 << 20
        assert (after["fds"], after["mappings"]) == (before["fds"], before["mappings"])
    assert len(result["before"]["names"]) == (2 if BACKING == "posix" else 0)  # in /dev/shm
    assert result["after"]["names"] == result["before"]["names"]
    assert result["left"] == []
