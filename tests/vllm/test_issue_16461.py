"""The benchmark of issue 16461 brings the pixels in every way; tests/unit/test_gemma3.py has what needs no vLLM."""

import json
import subprocess
import sys

import pytest

from bench.gemma3 import images, table
from tests.support import ROOT


@pytest.mark.timeout(300)
def test_every_way_brings_every_image_and_only_handles_leave_the_pixels_out_of_the_message() -> None:
    command = [sys.executable, "bench/issue_16461.py", "--images", "1,3", "--json"]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, timeout=280, check=True)
    rows = {(row["way"], row["images"]): row for row in json.loads(done.stdout)}
    ways = list(table.WAYS)
    assert list(rows) == [(way, count) for count in (1, 3) for way in ways]
    for (way, count), row in rows.items():
        payload = count * images.NBYTES
        assert row["verified"]
        assert min(row["transport_seconds"], row["frontend_seconds"], row["engine_seconds"]) > 0
        carried = payload * (count if way == table.TOGETHER else 1)
        if way == table.OWN:
            assert row["wire_nbytes"] < 4000 * count
            assert row["frontend_growth_nbytes"] < payload
        else:
            assert carried < row["wire_nbytes"] < 1.01 * carried
            assert row["engine_growth_nbytes"] > 0.9 * payload
    assert rows[table.PICKLED, 1]["published_seconds"] == 1.211
