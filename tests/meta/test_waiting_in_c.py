"""The core waits only where it is listed here, and never with a mutex held.

`WAITS` has each place that calls something that may wait, with what bounds it; system calls that wait for other
processes (`FORBIDDEN`) are not used at all. Mutexes have no deadline, so between lock and unlock nothing may be called
that waits, however indirectly: the calls are followed through all of csrc/.

The source is read without a compiler, in the style that it has: a function begins in the first column and ends with a
brace there. A block that unlocks and then leaves (return, break, continue) counts only for itself.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from tests.support import ROOT

FORBIDDEN = re.compile(
    r"\b(F_SETLKW|F_OFD_SETLKW)\b|\b(flock|lockf|pthread_cond_wait|pthread_rwlock_\w+|pthread_barrier_wait|sem_wait|"
    r"usleep|sleep|pause|sigwait\w*|wait|waitpid|wait4|waitid|mq_\w+|msgrcv|semop|pthread_spin_lock)\("
)
PRIMITIVES = (
    "SYS_futex pthread_join nanosleep clock_nanosleep sched_yield poll ppoll select pselect epoll_wait accept accept4 "
    "connect recv recvfrom recvmsg send sendto sendmsg read write"
).split()
WAITS = {
    "wait.c shmt_wait SYS_futex": "for timeout_ns at most, its caller's",
    "wait.c shmt_wake SYS_futex": "FUTEX_WAKE does not wait",
    "writer.c shmt_allocate_wait shmt_wait": "in slices of 50 ms up to timeout_ns, its caller's",
    "writer.c shmt_wait_released shmt_wait": "one slice of 50 ms at most, its caller's",
    "settler.c settle_until_stopped shmt_wait": "a thread of its own; 50 ms, or 1 s when it has nothing to do",
    "settler.c shmt_settler_retire pthread_join": "for that thread, which was told to stop and was woken",
    "keeper.c sleep_until_rung shmt_wait": "a thread of its own; 10 ms during a capture, 1 s when it has nothing to do",
    "keeper.c wait_for_event shmt_wait": "that thread, in slices of 1 ms, for the device",
    "keeper.c shmt_keeper_stop shmt_wait": "0.1 s, for that thread, which was told to stop and was woken",
    "serving.c serve poll": "a thread of its own, in slices of 1 s, or for 0.1 s",
    "serving.c serve accept4": "on a non-blocking socket",
    "serving.c answer recv": "0.1 s, SO_RCVTIMEO",
    "serving.c send_answer sendmsg": "0.1 s, SO_SNDTIMEO",
    "serving.c shmt_serving_stop pthread_join": "for that thread, which was told to stop and ends its answer first",
    "copy_pool.c wait_for_change shmt_wait": "threads of this process: idle ones for work, callers for the last pieces",
}
# A process that ends: nobody is kept waiting by these, and the thread that they join takes no mutex.
WITH_A_MUTEX = ["leaving.c shmt_abandon shmt_serving_stop", "leaving.c shmt_leave_all shmt_abandon"]
# Called with the mutex held; it lets go of it before it waits, and its caller has it no more.
LETS_GO = "shmt_settler_retire"

_OUTSIDE = re.compile(r"//[^\n]*|/\*.*?\*/|\"(?:\\.|[^\"\\\n])*\"", re.S)
_FUNCTION = re.compile(
    r"^(?P<static>static )?[A-Za-z_][^\n;#=]*?\b(?P<name>\w+)\([^;{}]*\)\s*\{"
    r"(?:(?P<line>[^\n]*)\}$|\n(?P<lines>.*?)^\})",
    re.S | re.M,
)
_CALL = re.compile(r"\b(\w+)\s*\(|\b(SYS_\w+)")
_STEP = re.compile(r"pthread_mutex_(un)?lock\(&?([\w.>-]+)\)|([{}])|\b(return|break|continue|goto)\b|\b(\w+)\s*\(")


class Function(NamedTuple):
    file: str
    name: str
    body: str
    calls: frozenset[str]
    """Each as it is known in the whole core: a static function with its file, anything else by its name alone."""


def functions_of(sources: dict[str, str]) -> dict[str, Function]:
    """By the name under which `Function.calls` has them."""
    found: dict[str, Function] = {}
    for file, text in sources.items():
        matches = list(_FUNCTION.finditer(_OUTSIDE.sub(" ", text)))
        static = {match["name"] for match in matches if match["static"]}
        for match in matches:
            body = match["line"] or match["lines"]
            calls = {call[1] or call[2] for call in _CALL.finditer(body)}
            known = frozenset(_known(file, call, static) for call in calls)
            found[_known(file, match["name"], static)] = Function(file, match["name"], body, known)
    return found


def _known(file: str, name: str, static: set[str]) -> str:
    return f"{file} {name}" if name in static else name


def waits_of(functions: dict[str, Function]) -> set[str]:
    """File, function and what it calls that may wait."""
    return {
        f"{function.file} {function.name} {call}"
        for function in functions.values()
        for call in function.calls & {*PRIMITIVES, "shmt_wait"}
    }


def waiting(functions: dict[str, Function]) -> set[str]:
    """What may wait, however indirectly."""
    found = {*PRIMITIVES, "shmt_wait"}
    while more := {name for name, function in functions.items() if function.calls & found} - found - {"shmt_wake"}:
        found |= more
    return found


def waits_with_a_mutex(functions: dict[str, Function]) -> Iterator[str]:
    """File, function, and what it calls between lock and unlock that may wait."""
    may_wait = waiting(functions) - {LETS_GO}
    for function in functions.values():
        held: set[str] = set()
        entered: list[set[str]] = []
        leaves = False
        for step in _STEP.finditer(function.body):
            unlocks, mutex, brace, jump, call = step.groups()
            if mutex:
                held = held - {mutex} if unlocks else held | {mutex}
            elif brace == "{":
                entered.append(held)
            elif brace and entered:
                before = entered.pop()
                held = before if leaves else held
            elif call == LETS_GO:
                held = set()
            elif held and may_wait & {call, f"{function.file} {call}"}:
                yield f"{function.file} {function.name} {call}"
            leaves = jump is not None or (leaves and brace is None)


def sources() -> dict[str, str]:
    return {str(path.relative_to(ROOT / "csrc")): path.read_text() for path in sorted((ROOT / "csrc").rglob("*.c"))}


def test_the_core_waits_only_where_it_is_known_to() -> None:
    assert waits_of(functions_of(sources())) == set(WAITS)


def test_the_core_never_sleeps_until_another_process_acts() -> None:
    code = {file: _OUTSIDE.sub(" ", text) for file, text in sources().items()}
    found = {f"{file}: {match[0]}" for file, text in code.items() for match in FORBIDDEN.finditer(text)}
    assert found == set()


def test_nothing_waits_with_a_mutex_held() -> None:
    functions = functions_of(sources())
    assert {"shmt_drop", "shmt_allocate_wait", "settler.c settle_until_stopped"} <= waiting(functions)
    assert list(waits_with_a_mutex(functions)) == WITH_A_MUTEX


WAITS_INDIRECTLY = "static void rest(void) { shmt_wait(word, 0, 5); }\n"
LOCK, UNLOCK = "    pthread_mutex_lock(&a->mutex);\n", "    pthread_mutex_unlock(&a->mutex);\n"
REST, LEAVE = "    rest();\n", f"    if (done) {{\n{UNLOCK}        return;\n    }}\n"


def found_in(body: str) -> list[str]:
    return list(waits_with_a_mutex(functions_of({"a.c": f"{WAITS_INDIRECTLY}void f(struct a *a) {{\n{body}}}\n"})))


@pytest.mark.parametrize(
    "body",
    [
        LOCK + REST + UNLOCK,
        LOCK + LEAVE + REST + UNLOCK,
        LOCK + f"    while (more) {{\n{REST}    }}\n" + UNLOCK,
        LOCK + UNLOCK + REST + LOCK + REST,
    ],
)
def test_a_wait_with_a_mutex_held_is_found(body: str) -> None:
    assert found_in(body) == ["a.c f rest"]


@pytest.mark.parametrize(
    "body",
    [
        LOCK + UNLOCK + REST,
        LOCK + f"    while (more) {{\n{UNLOCK}{REST}{LOCK}    }}\n" + UNLOCK,
        LOCK + f"    if ({LETS_GO}(a)) rest();\n",
    ],
)
def test_a_wait_without_a_mutex_is_allowed(body: str) -> None:
    assert found_in(body) == []


def test_a_static_function_of_another_file_is_another_one() -> None:
    other = "static void rest(void) { return; }\nvoid g(void) {\n    pthread_mutex_lock(&guard);\n    rest();\n}\n"
    assert list(waits_with_a_mutex(functions_of({"a.c": WAITS_INDIRECTLY, "b.c": other}))) == []
