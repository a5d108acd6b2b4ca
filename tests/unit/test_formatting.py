"""Sizes and times for people: short, and never of more digits than are meant."""

import pytest

from shmtransport.formatting import GIB, duration, size


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [(0, "0 bytes"), (1023, "1023 bytes"), (1024, "1.0 KiB"), (8 << 20, "8.0 MiB"), (514 << 20, "514 MiB"),
     (5 * GIB, "5.0 GiB"), (2000 * GIB, "2.0 TiB"), (1 << 52, "4096 TiB")],
)  # fmt: skip
def test_sizes_read_well(nbytes: int, text: str) -> None:
    assert size(nbytes) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.0 ms"), (0.0071, "7.1 ms"), (0.071, "71 ms"), (3.24, "3.2 s"), (45, "45 s"), (150, "2 min"),
     (7200, "2 h"), (400 * 86400, "400 d")],
)  # fmt: skip
def test_times_read_well(seconds: float, text: str) -> None:
    assert duration(seconds) == text
