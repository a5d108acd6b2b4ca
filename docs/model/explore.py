"""Breadth-first search over every interleaving, for the models beside this file.

A model is three things: an initial state, a function from a state to its moves, and a function that says what
is wrong with a state. States are nested tuples, so that equal states are one state. The search visits each
state once and stops at the first that is wrong; as it goes breadth first, the path it reports is a shortest.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Collection, Hashable, Iterator
from dataclasses import dataclass, fields
from typing import Any, Final, NamedTuple, NoReturn, TypeVar

S = TypeVar("S", bound=Hashable)
T = TypeVar("T")
B = TypeVar("B")


class Move(NamedTuple):
    """One atomic step: in words, where it leads, and what is wrong with the step itself (or '')."""

    label: str
    state: Any
    fault: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Rule:
    """A rule of the protocol that a model can do without. `number` is its number in docs/protocol.md."""

    number: int
    name: str
    says: str


@dataclass(frozen=True, slots=True)
class Result:
    """What a search found. `complete` is false only where `limit` cut it off before a verdict."""

    states: int
    transitions: int
    violation: str | None
    path: tuple[str, ...]
    complete: bool = True


def replaced(items: tuple[T, ...], index: int, item: T) -> tuple[T, ...]:
    """`items` with another item at `index`."""
    return (*items[:index], item, *items[index + 1 :])


def search(
    initial: S,
    moves: Callable[[S], Iterator[Move]],
    fault: Callable[[S], str],
    limit: int | None = None,
) -> Result:
    """Visit every state that can be reached from `initial`, at most `limit` of them.

    `fault(state)` returns what is wrong with a state, '' if nothing is. `transitions` counts every move out
    of every visited state, those to states already seen too.
    """
    parents: dict[S, tuple[S, str] | None] = {initial: None}
    waiting = deque([initial])
    visited = transitions = 0
    while waiting:
        state = waiting.popleft()
        visited += 1
        for label, target, wrong in moves(state):
            transitions += 1
            new = target not in parents
            if new:
                wrong = wrong or fault(target)
            if wrong:
                return Result(visited, transitions, wrong, (*_path(parents, state), label))
            if new:
                parents[target] = (state, sys.intern(label))
                waiting.append(target)
        if visited == limit:
            return Result(visited, transitions, None, (), complete=not waiting)
    return Result(visited, transitions, None, ())


def _path(parents: dict[S, tuple[S, str] | None], state: S) -> list[str]:
    labels = []
    while (step := parents[state]) is not None:
        state, label = step
        labels.append(label)
    return labels[::-1]


USAGE: Final = "usage: {} [BOUND=N ...] [without=RULE[,RULE ...]] [limit=STATES]\nbounds: {}\nrules:"


def main(
    bounds_type: type[B],
    rules: Collection[Rule],
    explore: Callable[[B, frozenset[Rule], int | None], Result],
) -> NoReturn:
    """The command line of a model: prints states, verdict and the shortest path; exits 1 on a violation."""
    by_name = {rule.name: rule for rule in rules}
    try:
        given = dict(argument.split("=", 1) for argument in sys.argv[1:])
        removed = frozenset(by_name[name] for name in given.pop("without", "").split(",") if name)
        limit = int(given.pop("limit")) if "limit" in given else None
        bounds = bounds_type(**{name: int(value) for name, value in given.items()})
    except (KeyError, TypeError, ValueError):
        names = " ".join(f"{field.name}={field.default}" for field in fields(bounds_type))  # type: ignore[arg-type]
        print(USAGE.format(sys.argv[0], names), file=sys.stderr)
        for rule in rules:
            print(f"  {rule.name:28} {rule.number:2}  {rule.says}", file=sys.stderr)
        sys.exit(2)
    began = time.monotonic()
    result = explore(bounds, removed, limit)
    took = time.monotonic() - began
    print(f"{result.states:,} states, {result.transitions:,} transitions, {took:.1f} s")
    for number, label in enumerate(result.path, 1):
        print(f"  {number:2}  {label}")
    verdict = "no violation" if result.complete else "no violation so far: cut off by limit"
    print(result.violation or verdict)
    sys.exit(1 if result.violation else 0)
