"""The option that chooses the bounds."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="search the larger bounds of docs/model/promela; no mutants")
