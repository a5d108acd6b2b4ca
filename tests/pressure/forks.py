"""Calls in forked children of one process that has imported everything: each begins as if it were new, and may die."""

import os
from collections.abc import Callable
from typing import Any

from tests.processes.children import Child, child
from tests.support import SHARED_MEMORY, segment_names

DEADLINE_S = 50.0


class Forks:
    """The parent of the children, in a mount namespace and under failing.c."""

    def __init__(self, parent: Child) -> None:
        self._parent = parent
        parent.run("from tests.pressure.forks import in_a_fork")

    def call(self, function: Callable[..., Any], *args: object, **names: object) -> Any:
        """What ``function`` returns in a new child; it is found there by its name.

        The test fails with what it raised, with the signal that ended the child, and if /dev/shm is not empty then.
        """
        question = "in_a_fork(function, args, names)"
        return self._parent.ask(question, timeout_s=DEADLINE_S + 5, function=function, args=args, names=names)


def in_a_fork(function: Callable[..., Any], args: tuple[object, ...], names: dict[str, object]) -> Any:
    with child("fork") as forked:
        forked.start("ask", "function(*args, **names)", function=function, args=args, names=names)
        try:
            answer = forked.answer(DEADLINE_S)
        except EOFError:
            raise AssertionError(f"{function.__name__}{args}: the child ended with status {forked.wait()}") from None
        status = forked.finish()
        assert status == 0, f"{function.__name__}{args}: the child ended with status {status}"
    left = os.listdir(SHARED_MEMORY)
    for name in left:
        (SHARED_MEMORY / name).unlink()
    left += segment_names()
    assert not left, f"{function.__name__}{args} left {left}"
    return answer
