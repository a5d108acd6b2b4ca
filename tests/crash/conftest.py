"""Options and the last line of crash tests: how many points, roles and kills there were."""

import platform
from collections import defaultdict
from collections.abc import Iterator

import pytest

from tests.crash.kill_points import CORE
from tests.crash.nursery import Nursery, nursery

# Its breakpoints are set as x86-64 has them.
collect_ignore = [] if platform.machine() == "x86_64" else ["test_every_instruction.py"]

killed = pytest.StashKey[dict[str, list[str]]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--every-instruction", action="store_true", help="leave out none, in long loops neither")


def pytest_configure(config: pytest.Config) -> None:
    by_role: dict[str, list[str]] = defaultdict(list)
    config.stash[killed] = by_role


@pytest.fixture
def kills(request: pytest.FixtureRequest) -> dict[str, list[str]]:
    """By role: the points at which one was killed, and everybody else recovered."""
    return request.config.stash[killed]


@pytest.fixture(scope="module")
def a_nursery() -> Iterator[Nursery]:
    if not CORE.exists():
        pytest.fail(f"no {CORE}: `make test-crash` builds it", pytrace=False)
    with nursery() as made:
        yield made


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    by_role = config.stash[killed]
    if not by_role:
        return
    points = {point for died_at in by_role.values() for point in died_at}
    kills = sum(len(died_at) for died_at in by_role.values())
    each = ", ".join(f"{role} {len(died_at)}" for role, died_at in sorted(by_role.items()))
    recovered = "not every one" if terminalreporter.stats.get("failed") else "every one"
    terminalreporter.write_line(
        f"kill points: {len(points)} points, {len(by_role)} roles, {kills} kills ({each}); {recovered} recovered"
    )
