"""What `make sdist wheel` has left in dist/."""

from pathlib import Path

import pytest

from tests.support import ROOT


def made(pattern: str) -> Path:
    found = list((ROOT / "dist").glob(pattern))
    if len(found) != 1:
        pytest.fail(
            f"expected one {pattern} in dist/, there are {len(found)}: `make test-release` makes it", pytrace=False
        )
    return found[0]


@pytest.fixture(scope="session")
def sdist() -> Path:
    return made("*.tar.gz")


@pytest.fixture(scope="session")
def wheel() -> Path:
    return made("*.whl")
