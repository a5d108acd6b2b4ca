"""`make soak` finds what it is for: wrong bytes, a process that hangs, memory that does not come back."""

import json
import random
import subprocess
import sys
from typing import Any

from tests.soak.contents import contents_of, fault_of, make, raw_of
from tests.soak.rounds import READERS, deeds
from tests.support import ROOT

KEYS = ["rounds", "kills", "transfers", "corrupted", "hung", "leaked_nbytes", "seconds"]


def soak(*options: object, status: int) -> tuple[dict[str, Any], str]:
    """The last line of a soak that ends with ``status``, and what it found."""
    command = [sys.executable, "-m", "tests.soak", *map(str, options)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=55, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert list(result) == KEYS
    return result, done.stderr


def test_a_short_soak_finds_nothing_wrong(rng: random.Random) -> None:
    result, _ = soak("--rounds", 10, "--seed", rng.getrandbits(32), status=0)
    assert result["rounds"] == 10
    assert result["kills"] > 0
    assert result["transfers"] > 0


def test_a_planted_fault_of_each_kind_is_found_once() -> None:
    """Each is planted in a reader that no deed of the first three rounds meets, so that it comes to commit it."""

    def met(seed: int) -> set[str]:
        return {deed.name for number in range(3) for deed in deeds(random.Random(f"{seed}:posix:{number}"))}

    seed = next(seed for seed in range(100_000) if not met(seed) & set(READERS))
    plants = [word for fault in ("corruption", "hang", "leak") for word in ("--plant", fault)]
    result, found = soak("--rounds", 6, "--seed", seed, "--deadline", 8, *plants, status=1)
    assert (result["corrupted"], result["hung"]) == (1, 1)
    assert result["leaked_nbytes"] > 0
    assert "bytes are wrong" in found or "expected" in found
    assert "no answer to 'rest' in 8.0 s" in found
    assert "are in use, and nobody should hold any" in found


def test_one_wrong_byte_in_a_tensor_is_seen(rng: random.Random) -> None:
    seen = 0
    for _ in range(300):
        number = rng.getrandbits(64)
        payload = make(contents_of(number))
        assert fault_of(payload, number, 0) == ""
        raw = raw_of(payload)
        if len(raw) == 0:
            continue
        position = rng.randrange(len(raw))
        raw[position] ^= 1 << rng.randrange(8)
        assert fault_of(payload, number, 0) == f"1 of {len(raw)} bytes are wrong, the first at {position}"
        raw[position] ^= 255
        assert fault_of(payload, number ^ 1, 0) != ""
        seen += 1
    assert seen > 200


def test_the_deeds_of_a_round_follow_from_its_seed() -> None:
    assert list(deeds(random.Random("7:posix:3"))) == list(deeds(random.Random("7:posix:3")))
    assert list(deeds(random.Random("7:posix:3"))) != list(deeds(random.Random("7:posix:4")))
