"""Every role is killed at each kill point that it passes, one passage after the other, and all others recover."""

import contextlib
import signal
from pathlib import Path

import pytest

from shmtransport import copying
from shmtransport.config import BACKINGS, BackingName
from tests.crash.kill_points import PYTHON_POINTS, Record, points_in_sources
from tests.crash.nursery import Nursery
from tests.crash.scenarios import SCENARIOS, Scenario
from tests.crash.world import World, world

MOST = 400
"""Passages in one scenario; more means that an operation does not end."""


def passed(world: World, scenario: Scenario, folder: Path, fatal: int) -> Record:
    """What a new victim passed before it died: at its ``fatal``-th point, or behind the operation."""
    victim = world.child()
    statements = scenario.prepare(world, victim)
    path = folder / "passed"
    disarm = "" if scenario.ends else "guard.__exit__(None, None, None)"
    victim.start(
        "run",
        f"from tests.crash.kill_points import armed\nguard = armed(record, fatal)\nguard.__enter__()\n"
        f"{statements}\n{disarm}",
        record=str(path),
        fatal=fatal,
    )
    with contextlib.suppress(EOFError, ConnectionResetError):
        victim.answer()
    if not scenario.ends:
        victim.kill()
        return Record.read(path)
    status = victim.finish()
    record = Record.read(path)
    assert status == (0 if record.died_at is None else -signal.SIGKILL)
    return record


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("backing", "scenario"),
    [pytest.param(backing, each, id=f"{backing}-{each}") for each in SCENARIOS for backing in each.backings],
)
def test_everybody_recovers_wherever_one_is_killed(
    a_nursery: Nursery, backing: BackingName, scenario: Scenario, tmp_path: Path, kills: dict[str, list[str]]
) -> None:
    with world(a_nursery, tmp_path, backing) as survivors:
        record = Record([], None)
        for fatal in range(1, MOST):
            record = passed(survivors, scenario, tmp_path, fatal)
            try:
                survivors.check()
            except AssertionError as error:
                raise AssertionError(f"killed at passage {fatal}, {record.died_at}, of {record.passed}") from error
            if record.died_at is None:
                break
            kills[scenario.role].append(record.died_at)
        else:
            pytest.fail(f"more than {MOST} passages: {record.passed}")
        assert fatal > 1, "no kill point on the way"


@pytest.mark.timeout(240)
def test_every_kill_point_of_the_sources_is_passed_in_some_scenario(a_nursery: Nursery, tmp_path: Path) -> None:
    found: set[str] = set()
    for backing in BACKINGS:
        with world(a_nursery, tmp_path, backing) as survivors:
            for scenario in SCENARIOS:
                if backing in scenario.backings:
                    found |= set(passed(survivors, scenario, tmp_path, 0).passed)
                    survivors.check()
    elsewhere = set() if "avx2-nt" in copying.machine().kernels else {"copy.stored", "copy.fenced"}
    assert points_in_sources() | set(PYTHON_POINTS) == found | elsewhere
