"""The models of docs/model hold within small bounds, and each rule that is taken out of them is missed.

The numbers of states are asserted too: a model that silently stopped exploring would hold anything.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

MODELS = Path(__file__).parents[2] / "docs" / "model"


def model(name: str) -> ModuleType:
    """A module of docs/model, which is no package: its files import each other by their plain names."""
    sys.path.insert(0, str(MODELS))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(MODELS))


leases, lease_state, names = model("leases"), model("lease_state"), model("names")
LEASE_RULES = {rule.name: rule for rule in lease_state.RULES}
NAME_RULES = {rule.name: rule for rule in names.RULES}


# Everything that can happen to a message, with one reader and the writer sharing both ways.
ASTRAY = {"readers": 1, "write_back": 1, "shares": 1, "losses": 1, "copies": 1, "revokes": 1, "refusals": 1}


@pytest.mark.parametrize(
    ("bounds", "states"),
    [
        pytest.param({}, 21_048, id="two readers, one killed, and a new tenant"),
        pytest.param({"broadcast": 1, "shares": 1, "losses": 1, "revokes": 1}, 6_046, id="broadcast"),
        pytest.param({"readers": 1, "entries": 2, "copies": 1, "kills": 0}, 7_648, id="two entries, copies"),
        pytest.param({**ASTRAY, "leaves": 1}, 18_509, id="messages astray, and a reader that closes"),
    ],
)
def test_the_lease_protocol_holds_in_every_interleaving(bounds: dict[str, int], states: int) -> None:
    result = leases.explore(lease_state.Bounds(**bounds))
    assert (result.violation, result.path) == (None, ())
    assert (result.states, result.complete) == (states, True)


# A rule, bounds within which it is missed, and how the violation that is found begins.
MISSED: list[tuple[str, dict[str, int], str]] = [
    (
        "retire-generations",
        {"puts": 3, "shares": 1, "generations": 2, "revokes": 1, "kills": 0},
        "reused memory",
    ),
    ("lock-survives", {"kills": 0, "shares": 1}, "no lease"),
    ("lock-outlives-leases", {"leaves": 1, "kills": 0, "shares": 1}, "no lease"),
    ("scrub", {"shares": 1}, "leak"),
    ("sequence-goes-on", {"readers": 1, "write_back": 1, "slots": 1, "puts": 1, "shares": 4}, "lost handle"),
    ("retire-id", {"shares": 1}, "leak"),
    ("fresh-id", {"leaves": 1, "kills": 0, "shares": 1}, "lost handle"),
    ("reap-holds-lock", {"readers": 1, "puts": 1}, "no lease"),
    ("writer-not-reaped", {"shares": 1}, "lost handle"),
    ("harvest-waits", {"shares": 0}, "freed memory"),
    ("mutex", {"kills": 0, "tenants": 0}, "no lease"),
    ("settle-under-mutex", {"readers": 1, "puts": 1}, "lost handle"),
    ("held-for-the-call", {"shares": 1, "kills": 0}, "lost handle"),
    ("ticket-then-send", {"shares": 1, "kills": 0}, "leak"),
    ("sweep-then-share", {"shares": 1, "puts": 1}, "lost handle"),
    ("check-id-again", {"shares": 1}, "leak"),
    ("generation-check", {"shares": 1, "revokes": 1, "kills": 0}, "reused memory"),
    ("mask-not-zero", {"shares": 1, "revokes": 1, "kills": 0}, "freed memory"),
    ("lease-then-acknowledge", {"shares": 1, "kills": 0}, "lost handle"),
    ("acknowledge-refusal", {"shares": 1, "refusals": 1, "kills": 0}, "leak"),
    ("on-sequence", {"readers": 1, "slots": 1, "puts": 1, "copies": 1, "kills": 0}, "lost handle"),
    ("in-flight-hold", {"shares": 1, "kills": 0}, "lost handle"),
    ("open-count", {"kills": 0}, "no lease"),
    ("settle-departed", {"shares": 1}, "leak"),
    ("settle-epoch", {"shares": 1}, "leak"),
    ("revoke", {"shares": 1, "losses": 1}, "leak"),
]

# Without these the model finds nothing; the README says what they are kept for.
NOT_MISSED: list[tuple[str, dict[str, int]]] = [
    ("clear-id-on-leave", {"leaves": 1, "shares": 1, "losses": 1, "revokes": 1}),
    ("wipe-row", {"readers": 1, "write_back": 1, "slots": 1, "shares": 3}),
]


@pytest.mark.parametrize(("rule", "bounds", "violation"), MISSED, ids=[rule for rule, _, _ in MISSED])
def test_the_protocol_breaks_without(rule: str, bounds: dict[str, int], violation: str) -> None:
    within = lease_state.Bounds(**bounds)
    result = leases.explore(within, {LEASE_RULES[rule]})
    assert result.violation is not None
    assert result.violation.startswith(violation)
    assert result.path
    assert leases.explore(within).violation is None


@pytest.mark.parametrize(("rule", "bounds"), NOT_MISSED, ids=[rule for rule, _ in NOT_MISSED])
def test_the_protocol_holds_even_without(rule: str, bounds: dict[str, int]) -> None:
    assert leases.explore(lease_state.Bounds(**bounds), {LEASE_RULES[rule]}).violation is None


def test_every_lease_rule_is_tried_once() -> None:
    tried = [rule for rule, *_ in MISSED] + [rule for rule, _ in NOT_MISSED]
    assert sorted(tried) == sorted(LEASE_RULES)


def test_the_life_of_names_holds_in_every_interleaving() -> None:
    result = names.explore(names.Bounds())
    assert (result.violation, result.path) == (None, ())
    assert (result.states, result.complete) == (40_291, True)


MISSED_NAMES: list[tuple[str, str]] = [
    ("size-check", "touches memory that is not there"),
    ("version-last", "cannot map a segment"),
    ("writer-check", "cannot map a segment"),
    ("creator-check", "living ring is unlinked"),
    ("control-first", "living ring is unlinked"),
    ("all-bytes", "cannot map a segment"),
    ("one-call,byte-0-last", "cannot map a segment"),
    ("exit-all-bytes", "cannot map a segment"),
    ("list-then-look", "living ring is unlinked"),
    ("control-last,orphans", "stays for ever"),
]
# Of one-call and byte-0-last, and of control-last and orphans, one is enough.
NOT_MISSED_NAMES = ["link-check", "one-call", "byte-0-last", "control-last", "orphans"]


def name_rules(joined: str) -> set[Any]:
    return {NAME_RULES[name] for name in joined.split(",")}


@pytest.mark.parametrize(("removed", "violation"), MISSED_NAMES, ids=[removed for removed, _ in MISSED_NAMES])
def test_the_life_of_names_breaks_without(removed: str, violation: str) -> None:
    result = names.explore(names.Bounds(), name_rules(removed))
    assert result.violation is not None
    assert violation in result.violation


@pytest.mark.parametrize("removed", NOT_MISSED_NAMES)
def test_the_life_of_names_holds_even_without(removed: str) -> None:
    assert names.explore(names.Bounds(reapers=1), name_rules(removed)).violation is None


def test_every_name_rule_is_tried() -> None:
    tried = {name for removed, _ in MISSED_NAMES for name in removed.split(",")} | set(NOT_MISSED_NAMES)
    assert tried == set(NAME_RULES)
