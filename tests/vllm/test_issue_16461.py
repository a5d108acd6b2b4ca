"""The benchmark of issue 16461 brings the pixels in every way, and would see if it did not."""

import json
import subprocess
import sys

import pytest
import torch

from bench.gemma3 import ends, images, table, v083
from bench.gemma3.memory import Growth
from bench.peers.ends import WrongBytesError
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


def test_one_changed_byte_is_seen() -> None:
    pixels = [images.image(3, number).clone() for number in range(2)]
    ends.check(pixels, 3, 2)
    pixels[1].view(torch.uint8)[2, 895, -1] ^= 1
    with pytest.raises(WrongBytesError, match="image 1 of 2 came with other bytes"):
        ends.check(pixels, 3, 2)
    with pytest.raises(WrongBytesError, match="2 images came, 3 were sent"):
        ends.check(pixels, 3, 3)


def test_an_image_of_its_own_storage_is_pickled_once_although_it_is_held_twice() -> None:
    pixels = torch.empty(2, *images.SHAPE)
    (message,) = v083.Pickled().encode(v083.Pickled().request(pixels, 0))
    assert pixels.nbytes < len(message) < 1.01 * pixels.nbytes


def test_memory_that_was_needed_for_a_while_is_seen_after_it_is_given_back() -> None:
    growth = Growth()
    before = growth.nbytes()
    torch.ones(8 << 20)
    assert 30e6 < growth.nbytes() - before < 60e6
