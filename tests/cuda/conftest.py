"""The pretended driver, and processes that use it or a real one."""

import contextlib
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cuda.pools import PRELUDE, PRETENDED, REAL, Pair, Spawn
from tests.processes.children import Child, child
from tests.support import ROOT, compile_c


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """driver.c as a library."""
    library = tmp_path_factory.mktemp("driver") / "libcuda.so.1"
    flags = "-std=gnu11 -O1 -g -Wall -Wextra -Werror -fPIC -shared".split()
    compile_c(*flags, ROOT / "tests" / "cuda" / "driver.c", "-o", library)
    return library


@pytest.fixture(params=[PRETENDED, pytest.param(REAL, marks=[pytest.mark.needs_gpu, pytest.mark.timeout(300)])])
def spawn(request: pytest.FixtureRequest, driver: Path) -> Iterator[Spawn]:
    """Starts a process that uses the device; all end in peace with the test."""
    with contextlib.ExitStack() as stack:

        def start(code: str) -> Child:
            made = stack.enter_context(child("quick"))
            made.run(textwrap.dedent(PRELUDE), driver=str(driver) if request.param == PRETENDED else "")
            made.run(code)
            return made

        yield start


@pytest.fixture
def pretended(request: pytest.FixtureRequest, spawn: Spawn) -> bool:
    return bool(request.node.callspec.params["spawn"] == PRETENDED)


@pytest.fixture
def options() -> dict[str, object]:
    """Of the pool."""
    return {"on_full": "raise"}


@pytest.fixture
def pair(spawn: Spawn, options: dict[str, object]) -> Pair:
    return Pair(spawn, options)
