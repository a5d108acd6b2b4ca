"""Options and the last lines of crash tests: how many points, roles and kills there were."""

from collections import defaultdict
from collections.abc import Iterator

import pytest

from tests.crash.kill_points import CORE
from tests.crash.nursery import Nursery, nursery

killed = pytest.StashKey[dict[str, list[str]]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--every-instruction", action="store_true", help="leave out none, in long loops neither")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[killed] = defaultdict(list)


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
    if by_role:
        points = {point for died_at in by_role.values() for point in died_at}
        roles = ", ".join(f"{role} {len(died_at)}" for role, died_at in sorted(by_role.items()))
        terminalreporter.write_line(
            f"kill points: {len(points)} points, {len(by_role)} roles, {sum(map(len, by_role.values()))} kills ({roles}); "
            "every one recovered"
            if not terminalreporter.stats.get("failed")
            else f"kill points: {len(points)} points were survived before a test failed"
        )
