"""The pure C core under sanitizers: writers and readers of two threads each, from 1 × 1 to 16 × 16.

ThreadSanitizer finds what no lock and no atomic orders, between threads of one attachment and, since all attachments
are mapped at one address there, between writers and readers too. AddressSanitizer, UndefinedBehaviorSanitizer and
LeakSanitizer run the core as it is mapped in life. The program itself checks each byte and that all comes back.
`make stress`; SHMTRANSPORT_STRESS_FACTOR multiplies the blocks that are written.
"""

import random
from pathlib import Path

import pytest

from tests.stress.building import FACTOR, HANGS_S, Form, Numbers, numbers_of, run

# Writers, readers, blocks of each thread of each writer.
SIZES = [(1, 1, 4000), (2, 4, 1500), (8, 8, 500), (16, 16, 200)]

# Whether these happen is up to the scheduler.
RARE = {"reaped", "refused_joins", "not_joined", "writers_died"}


def nothing_is_missing(numbers: Numbers, writers: int, readers: int, blocks: int) -> None:
    """A run in which something never happened has not tested it."""
    assert numbers["blocks"] == writers * blocks * 2
    one_reader = {"broadcast"} if readers == 1 else set()
    assert {name for name, value in numbers.items() if value == 0} <= RARE | one_reader


@pytest.mark.timeout(HANGS_S + 30)
@pytest.mark.parametrize("form", ["thread", "address"])
@pytest.mark.parametrize(("writers", "readers", "blocks"), SIZES, ids=[f"{w}x{r}" for w, r, _ in SIZES])
def test_no_sanitizer_finds_anything_and_all_comes_back(
    programs: dict[Form, Path], form: Form, writers: int, readers: int, blocks: int, rng: random.Random
) -> None:
    blocks *= FACTOR
    numbers = numbers_of(run(programs[form], writers, readers, rng.randrange(2**32), blocks))
    print(numbers)
    nothing_is_missing(numbers, writers, readers, blocks)
