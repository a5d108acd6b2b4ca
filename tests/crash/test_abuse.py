"""bench/abuse.py: this project keeps its promise, the standard library's own way does not, and a breach is seen."""

import json
import sys
from typing import Any

import pytest

from bench import abuse
from bench.peers import peer_type
from shmtransport.config import BACKINGS

KEYS = {"peer", "backing", "sigbus", "error", "bytes_left"}

KEPT: dict[str, Any] = {
    "peer": "shmtransport",
    "backing": "posix",
    "sigbus": False,
    "error": "OutOfSharedMemoryError: expected 3145728 bytes",
    "bytes_left": 0,
    "bytes_left_at_once": 4096,
    "next_start": "works",
    "sent": 2,
    "delivered": 2,
    "usable_afterwards": True,
}


@pytest.mark.timeout(300)  # six processes that import torch, on a machine that may be busy
@pytest.mark.parametrize("backing", BACKINGS)
def test_this_project_keeps_its_promise(backing: str) -> None:
    row = abuse.row_of(peer_type("shmtransport"), backing)
    assert row.keys() >= KEYS
    assert abuse.broken_promises([row]) == []
    if backing == "posix":
        assert row["error"].startswith("OutOfSharedMemoryError: "), row
        assert row["bytes_left_at_once"] > 0, row  # or nothing was killed in mid-transfer


@pytest.mark.timeout(300)
def test_the_standard_library_dies_of_sigbus_and_leaves_its_segments() -> None:
    """So the abuses abuse: they would be seen here if they stopped."""
    row = abuse.row_of(peer_type("SharedMemory"), "posix")
    assert row["sigbus"], row
    assert row["error"] == "sender died: SIGBUS", row
    assert row["bytes_left"] >= 3 << 20, row
    assert row["bytes_left_if_helper_lives"] == 0, row
    assert row["next_start"] == "works", row


@pytest.mark.parametrize(
    "broken",
    [
        {"bytes_left": 1},
        {"bytes_left": None},
        {"sigbus": True},
        {"sigbus": None},
        {"error": "sender hangs: no answer within 30 s"},
        {"delivered": 1},
        {"usable_afterwards": False},
        {"next_start": "SegmentError: there already"},
        {"backing": "memfd"},  # whose bytes are to be gone at once
    ],
    ids=str,
)
def test_a_broken_promise_is_found(broken: dict[str, Any]) -> None:
    assert abuse.broken_promises([KEPT]) == []
    assert len(abuse.broken_promises([KEPT | broken])) == 1


def test_what_others_do_breaks_no_promise_of_ours() -> None:
    assert abuse.broken_promises([KEPT | {"peer": "SharedMemory", "sigbus": True, "bytes_left": 1}]) == []


def test_a_peer_that_is_not_measured_is_listed_with_its_reason(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["abuse.py", "--json", "--peer", "Ray"])
    assert abuse.main() == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row.keys() == KEYS
    assert row["peer"] == "Ray"
    assert row["error"].startswith("not measured: "), row
