"""Exerts pressure on each operation, in every measure, and looks what that leaves behind.

Runs in a forked child under failing.c (`tests.pressure.forks`); what tests call are `with_failing_calls` and
`with_limits`.
"""

import gc
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

from shmtransport import InternalError, ShmTransportError, sweep
from shmtransport.config import BackingName
from tests.pressure.failing import Failing, Fault, loaded
from tests.pressure.operations import OPERATIONS, Prepared
from tests.support import segment_names

SETTLED_WITHIN_S = 5.0
AT_REST_WITHIN_S = 0.2  # a settling thread looks every 50 ms; those that copy stay
MOST_CALLS = 1000

Outcomes = dict[str, int]
"""How often which error came of it, or "done" if it was done all the same."""

_SHARED = re.compile(r"(/dev/shm/shmt-\S+|/memfd:\S+)")


class Belongings(NamedTuple):
    """What a process has of ours."""

    descriptors: dict[str, str]
    mappings: list[str]
    names: set[str]
    threads: int
    heap_blocks: int

    @classmethod
    def now(cls, failing: Failing) -> "Belongings":
        own = Path("/proc/self/fd")
        descriptors = {}
        for fd in os.listdir(own):
            link = own / fd
            if link.is_symlink():  # not that of the listing itself
                descriptors[fd] = os.readlink(link)
        mappings = sorted(_SHARED.findall(Path("/proc/self/maps").read_text()))
        return cls(descriptors, mappings, segment_names(), _threads(), failing.held())


def with_failing_calls(
    operation: str,
    backing: BackingName,
    function: str,
    error: int,
    *,
    from_then_on: bool,
    mended_by_a_sweep: bool = False,
) -> Outcomes:
    """Fails each call of ``function`` in turn, until the operation makes no further ones."""
    failing = loaded()

    def faults() -> Iterable[AbstractContextManager[Fault]]:
        for n in range(1, MOST_CALLS):
            yield failing.at(function, n, error, from_then_on=from_then_on)
        raise AssertionError(f"{operation} calls {function} without end")

    return _outcomes(failing, operation, backing, faults(), mended_by_a_sweep=mended_by_a_sweep)


def with_limits(
    operation: str, backing: BackingName, limit: Callable[[int], AbstractContextManager[Fault]]
) -> Outcomes:
    """Leaves it more and more, from nothing on, until the operation is done without meeting the limit."""
    faults = (limit(left) for left in range(MOST_CALLS))
    return _outcomes(loaded(), operation, backing, faults)


def _outcomes(
    failing: Failing,
    name: str,
    backing: BackingName,
    faults: Iterable[AbstractContextManager[Fault]],
    *,
    mended_by_a_sweep: bool = False,
) -> Outcomes:
    """Raises AssertionError if an error was none of ours, if the operation does not work afterwards, or if
    anything is left."""

    def prepare() -> Prepared:
        return OPERATIONS[name](backing)

    with prepare() as operation:  # what Python imports and the core measures only once
        operation.check(operation.act())
    before = _at_rest(failing)
    seen: Counter[str] = Counter()
    for number, fault in enumerate(faults, 1):
        outcome, hits = _under(prepare, fault)
        if mended_by_a_sweep:
            sweep()
        left = _left(failing, before)
        assert not left, f"{name}, {number}: {outcome}, then {left}"
        if not hits:
            assert outcome == "done", f"{name}, {number}: {outcome} without any pressure"
            return dict(seen)
        seen[outcome] += 1
    raise AssertionError("no measure of it is enough")


def _under(prepare: Callable[[], Prepared], pressure: AbstractContextManager[Fault]) -> tuple[str, int]:
    """The name of the error that came of it, or "done"; and how many calls were hit."""
    with prepare() as operation:
        outcome, answer = "done", None
        with pressure as fault:
            try:
                answer = operation.act()
            except (ShmTransportError, MemoryError) as caught:
                outcome = type(caught).__name__
        assert outcome != InternalError.__name__
        if outcome == "done":
            operation.check(answer)
            del answer
        operation.check(operation.act())
    return outcome, fault.hits


def _at_rest(failing: Failing) -> Belongings:
    """What this process has once the threads of an operation that is over have had their time to end."""
    begin = time.monotonic()
    while _threads() > 1 and time.monotonic() - begin < AT_REST_WITHIN_S:
        time.sleep(0.005)
    return Belongings.now(failing)


def _threads() -> int:
    return len(os.listdir("/proc/self/task"))


def _left(failing: Failing, before: Belongings) -> str:
    """What differs from before, in words. Threads may take a moment to end."""
    start = time.monotonic()
    while (now := Belongings.now(failing)) != before:
        waited_s = time.monotonic() - start
        if waited_s > SETTLED_WITHIN_S:
            pairs = zip(Belongings._fields, before, now, strict=True)
            return ", ".join(f"{field} {was} -> {is_now}" for field, was, is_now in pairs if was != is_now)
        if waited_s > 0.1:
            gc.collect()
        time.sleep(0.001)
    return ""
