"""Attacks in full or in part (``--full``), and what they came to, printed at the end of the run."""

import time
from collections import Counter
from collections.abc import Callable

import pytest

from tests.hostile.trials import Outcome

Record = Callable[[int, Outcome], None]

_records = pytest.StashKey[list[str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="every attack, not only some of them")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_records] = []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if config.stash[_records]:
        terminalreporter.section("attacks, and what they came to")
        for line in config.stash[_records]:
            terminalreporter.line(line)


@pytest.fixture
def full(request: pytest.FixtureRequest) -> bool:
    """Whether every attack is asked for."""
    return bool(request.config.getoption("--full"))


@pytest.fixture
def record(request: pytest.FixtureRequest) -> Record:
    """Takes the number of attacks and their answers, for the end of the run."""
    start = time.monotonic()

    def take(attacks: int, outcome: Outcome) -> None:
        seconds = time.monotonic() - start
        answers = ", ".join(f"{name} {count}" for name, count in Counter(outcome).most_common())
        name = request.node.name.removeprefix("test_")
        request.config.stash[_records].append(f"{name}: {attacks} attacks, {seconds:.1f} s: {answers}")

    return take
