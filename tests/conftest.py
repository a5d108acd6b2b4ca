"""What holds for every test: nothing is left in /dev/shm, nothing is skipped, and the run can be repeated.

One number seeds all randomness of a run: hypothesis through its own option, everything else through the
``rng`` fixture. It is printed in the header; SHMTRANSPORT_TEST_SEED repeats it. In CI (the variable CI is
set) it is always 0, so that what turns CI red is the change and not the draw; people's runs draw a new one
each time and so go on searching.
"""

import gc
import os
import random
from collections.abc import Generator, Iterator

import hypothesis
import pytest

from tests.support import segment_names, segments_mapped_by_strangers

MAY_SKIP = ("needs_gpu", "needs_cgroup")
SEED_VARIABLE = "SHMTRANSPORT_TEST_SEED"
seed = pytest.StashKey[int]()

# No deadline for one example: on a busy machine it fails tests that are right. pytest's timeout bounds the
# whole test.
hypothesis.settings.register_profile("dev", deadline=None, print_blob=True)
hypothesis.settings.register_profile("ci", deadline=None, print_blob=True, database=None)


@pytest.hookimpl(tryfirst=True)  # before hypothesis looks at its option
def pytest_configure(config: pytest.Config) -> None:
    in_ci = "CI" in os.environ
    drawn = 0 if in_ci else random.SystemRandom().randrange(2**32)
    config.stash[seed] = int(os.environ.get(SEED_VARIABLE, drawn))
    hypothesis.settings.load_profile("ci" if in_ci else "dev")
    if config.option.hypothesis_seed is None:
        config.option.hypothesis_seed = str(config.stash[seed])


def pytest_report_header(config: pytest.Config) -> str:
    return f"seed: {config.stash[seed]} (again: {SEED_VARIABLE}={config.stash[seed]} make test)"


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> random.Random:
    """Random numbers that depend on the run's seed and on the test, not on which tests ran before it."""
    return random.Random(f"{request.config.stash[seed]}:{request.node.nodeid}")


@pytest.fixture(autouse=True)
def shared_memory_is_left_as_it_was() -> Iterator[None]:
    """Fails a test after which /dev/shm holds a segment of this user that was not there before it."""
    before = segment_names()
    yield
    left = segment_names() - before
    if left:
        gc.collect()  # a cycle may hold the last reference to a ring
        left = segment_names() - before
    if left:
        left -= segments_mapped_by_strangers()  # another test run on this machine
        left &= segment_names()  # which may have ended while its mappings were looked at
    if left:
        pytest.fail(f"left in /dev/shm: {', '.join(sorted(left))}", pytrace=False)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if os.environ.get("SHMTRANSPORT_BACKING") == "memfd":
        of_posix = [item for item in items if item.get_closest_marker("posix")]
        config.hook.pytest_deselected(items=of_posix)
        items[:] = [item for item in items if item not in of_posix]
    waiting = [item for item in items if item.get_closest_marker("needs_gpu")]
    if not waiting:
        return
    import torch

    if not torch.cuda.is_available():
        for item in waiting:
            item.add_marker(pytest.mark.skip(reason="CUDA has no device here"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turns a skip into a failure: a test that did not run must not look like one that passed."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and not any(map(item.get_closest_marker, MAY_SKIP)):
        report.outcome = "failed"
        report.longrepr = f"skipped, and only {' and '.join(MAY_SKIP)} may be: {report.longrepr}"
    return report
