"""docs/model/promela holds in every configuration, and each rule that is taken out of it is missed.

Needs spin, so `make model` runs it and `make test` does not. Every search is complete: a limit that was reached, a
number of states that is not the one written here, or a rule without its mutant fails.
"""

import re
import shlex
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support import ROOT

MODEL = ROOT / "docs" / "model" / "promela"
SEARCH_TIMEOUT_S = 3600.0
pytestmark = pytest.mark.timeout(SEARCH_TIMEOUT_S)

# -DNOREDUCE: a death may come between any two transitions, so there is nothing to be reduced, and nothing to be
# believed about a reduction that meets `unless`.
COMPILE = "gcc -w -DSAFETY -DCOLLAPSE -DNOREDUCE -DMEMLIM=12000"
DEPTH = 20_000

# States of each configuration: a model that silently stopped exploring would hold anything.
STATES = {
    "FORWARDING": 1_795_305,
    "BROADCAST": 1_181_686,
    "CIRCLE": 929_359,
    "EXHAUSTION": 540_907,
    "WRAP": 1_032_858,
    "TENANTS": 282_153,
    "HEIRS": 597_189,
    "REAPING": 520_037,
}

# The rule that is taken out: its number, a configuration in which it is missed, and by which property.
MISSED = {
    "RETIREMENT": (1, "WRAP", "wrong_bytes_read"),
    "CAS": (2, "BROADCAST", "leak"),
    "LASTING_LOCK": (3, "TENANTS", "use_without_lease"),
    "LOCK": (3, "TENANTS", "lost_handle"),
    "SCRUB": (5, "TENANTS", "leak"),
    "SEQUENCE_KEPT": (5, "HEIRS", "lost_handle"),
    "VACANT_ROW": (5, "TENANTS", "leak"),
    "EPOCH": (5, "TENANTS", "leak"),
    "ID_LAST": (5, "TENANTS", "lost_handle"),
    "WRITER_CHECK": (5, "TENANTS", "frozen_ring_joined"),
    "HELD_REAP": (6, "TENANTS", "use_without_lease"),
    "FRESH_DESCRIPTION": (6, "REAPING", "use_without_lease"),
    "FROZEN": (7, "REAPING", "lost_handle"),
    "HARVEST": (8, "EXHAUSTION", "reuse_while_read"),
    "MUTEX": (9, "FORWARDING", "lost_handle"),
    "COUNT": (9, "FORWARDING", "use_without_lease"),
    "SENDERS_COUNT": (10, "FORWARDING", "lost_handle"),
    "HELD_COUNT": (10, "FORWARDING", "lost_handle"),
    "TICKET_FIRST": (11, "FORWARDING", "leak"),
    "EPOCH_AT_MATCH": (11, "TENANTS", "leak"),
    "INLINE": (11, "EXHAUSTION", "leak"),
    "GENERATION": (13, "WRAP", "wrong_bytes_read"),
    "LIVE_MASK": (13, "WRAP", "freed_memory_read"),
    "LEASE_FIRST": (13, "WRAP", "freed_memory_read"),
    "ACKNOWLEDGE_LAST": (13, "FORWARDING", "lost_handle"),
    "SEQUENCE": (13, "WRAP", "lost_handle"),
    "UNDO": (13, "EXHAUSTION", "leak"),
    "REFUSALS_ACKNOWLEDGED": (13, "EXHAUSTION", "leak"),
    "IN_FLIGHT": (15, "FORWARDING", "lost_handle"),
    "EVERY_BIT": (16, "BROADCAST", "lost_handle"),
    "DEAD_READERS": (16, "EXHAUSTION", "leak"),
    "EPOCHS": (16, "TENANTS", "leak"),
    "REVOKE": (17, "FORWARDING", "leak"),
    "HELPER": (18, "FORWARDING", "leak"),
    "DEFERRAL": (18, "FORWARDING", "use_without_lease"),
}
# The README says why. The configurations in which it could be missed.
NOT_MISSED = {"WIPE": (5, ("TENANTS", "HEIRS"))}


class Search(NamedTuple):
    """What pan printed about one search."""

    states: int
    depth: int
    errors: int
    violation: str  # the property's name, "deadlock", or ""
    complete: bool
    seconds: float


def parsed(output: str, seconds: float) -> Search:
    summary = re.search(r"^State-vector \d+ byte, depth reached (\d+), errors: (\d+)$", output, flags=re.M)
    stored = re.search(r"^ *(\d+) states, stored$", output, flags=re.M)
    assert summary, output
    assert stored, output
    found = re.search(r"^pan:1: (?:assertion violated +!\((\w+)\)|(invalid end state|[^(]*))", output, flags=re.M)
    violation = (found[1] or ("deadlock" if "end state" in found[0] else found[0])) if found else ""
    stopped = ("Search not completed", "max search depth too small", "-DMEMLIM", "out of memory", "aborting")
    complete = not any(sign in output for sign in stopped)
    return Search(int(stored[1]), int(summary[1]), int(summary[2]), violation, complete, seconds)


def search(folder: Path, *macros: str, depth: int = DEPTH) -> Search:
    """Generates, compiles and runs the search; `folder` gets pan, and a trail if there is a violation."""

    def run(command: list[str]) -> str:
        done = subprocess.run(
            command, check=False, cwd=folder, capture_output=True, text=True, timeout=SEARCH_TIMEOUT_S
        )
        output = done.stdout + done.stderr
        assert done.returncode == 0 or command[0] == "./pan", output
        return output

    defines = [f"-D{macro}" for macro in macros]
    generated = run(["spin", "-a", *defines, str(MODEL / "leases.pml")])
    assert "rror" not in generated, generated
    # gcc takes 0.6 s without optimising, 2.5 s with -O1, and a mutant's search mostly less.
    optimise = "-O0" if any(macro.startswith("WITHOUT_") for macro in macros) else "-O1"
    run([*shlex.split(COMPILE), optimise, "-o", "pan", "pan.c"])
    started = time.monotonic()
    return parsed(run(["./pan", f"-m{depth}"]), time.monotonic() - started)


def told(capsys: pytest.CaptureFixture[str], name: str, result: Search) -> None:
    with capsys.disabled():
        print(
            f"\n{name:<34} {result.states:>11,} states, depth {result.depth:>3}, {result.seconds:>6.1f} s"
            f"  {result.violation}",
            end=" ",
        )


@pytest.mark.parametrize("configuration", STATES)
def test_the_protocol_holds_in_every_interleaving(
    configuration: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], pytestconfig: pytest.Config
) -> None:
    full = pytestconfig.getoption("--full")
    result = search(tmp_path, configuration, *(["FULL"] if full else []))
    told(capsys, configuration, result)
    assert (result.violation, result.errors, result.complete) == ("", 0, True)
    assert full or result.states == STATES[configuration]


@pytest.mark.parametrize("rule", MISSED)
def test_a_rule_that_is_taken_out_is_missed(
    rule: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], pytestconfig: pytest.Config
) -> None:
    if pytestconfig.getoption("--full"):
        return
    _, configuration, violation = MISSED[rule]
    result = search(tmp_path, configuration, f"WITHOUT_{rule}")
    told(capsys, f"{configuration} WITHOUT_{rule}", result)
    assert (result.violation, result.errors) == (violation, 1)


@pytest.mark.parametrize(
    ("rule", "configuration"), [(rule, name) for rule, (_, names) in NOT_MISSED.items() for name in names]
)
def test_a_rule_that_is_not_missed_is_known(
    rule: str, configuration: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], pytestconfig: pytest.Config
) -> None:
    if pytestconfig.getoption("--full"):
        return
    result = search(tmp_path, configuration, f"WITHOUT_{rule}")
    told(capsys, f"{configuration} WITHOUT_{rule}", result)
    assert (result.violation, result.errors, result.complete) == ("", 0, True)


def test_a_search_that_was_cut_short_is_found(tmp_path: Path) -> None:
    cut = search(tmp_path, "TENANTS", depth=60)
    assert (cut.errors, cut.complete) == (0, False)


def test_every_rule_of_the_model_has_its_mutant_and_its_line_in_the_readme() -> None:
    sources = "\n".join(path.read_text() for path in MODEL.glob("*.pml"))
    assert set(re.findall(r"\bWITHOUT_(\w+)", sources)) == {*MISSED, *NOT_MISSED}
    assert set(re.findall(r"\bdefined\((\w+)\)", (MODEL / "bounds.pml").read_text())) == set(STATES)
    readme = (MODEL.parent / "README.md").read_text()
    for name, states in STATES.items():
        assert re.search(rf"^\| `{name}` \|.*\| {states:,} \|", readme, flags=re.M), name
    for rule, (number, configuration, violation) in MISSED.items():
        row = f"| `{rule}` | {number} | `{configuration}` | {violation.replace('_', ' ')} |"
        assert row in readme, row
    for rule in NOT_MISSED:
        assert f"`WITHOUT_{rule}`" in readme, rule
