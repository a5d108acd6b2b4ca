"""Which kernel copies a payload into a block: measured once a process, or said by whoever knows better.

A copy kernel is libc's memcpy (``libc``) or one that writes round the cache (``avx2-nt``, ``avx512-nt``), on one
thread or several. Which is fastest depends on the machine, on the size, and on whether the ring stays in the
cache; `prepare` finds out, in 50 to 100 ms, when the first ring of a process is made. Before that, and below
64 KiB always, a copy is plain memcpy.

To choose by hand, set the variable SHMTRANSPORT_COPY_KERNEL, or pass the same text to `prepare`: ``libc``, or
``avx2-nt:2`` for two threads. csrc/copy.h has the whole contract, docs/decisions/0002 the figures behind it.

All functions may be called from any thread and in a forked child, which keeps the plan.
"""

import os
import re
from typing import NamedTuple

from shmtransport import _core
from shmtransport.errors import ConfigError

VARIABLE = "SHMTRANSPORT_COPY_KERNEL"

# No further thread works on a copy for fewer bytes each (SHMT_COPY_THREAD_NBYTES in csrc/copy.h).
THREAD_NBYTES = 512 << 10


class Choice(NamedTuple):
    """A kernel, and how many threads work on one copy at most, the caller among them."""

    kernel: str
    threads: int

    def __str__(self) -> str:
        return f"{self.kernel}:{self.threads}"


class Plan(NamedTuple):
    """A choice for each class of sizes (``machine().class_nbytes``).

    ``warm`` is for rings that rotate through at most ``warm_limit_nbytes``, ``cold`` for all larger ones.
    """

    warm_limit_nbytes: int
    warm: tuple[Choice, ...]
    cold: tuple[Choice, ...]


class Machine(NamedTuple):
    """What there is to choose from: the kernels of this CPU, the most threads, the most of a measured plan (half
    of the CPUs: the others are the readers'), the last-level cache, and the least size of each class that a plan
    tells apart; copies below the first are always plain memcpy."""

    kernels: tuple[str, ...]
    threads: int
    planned_threads: int
    cache_nbytes: int
    class_nbytes: tuple[int, ...]


class Trial(NamedTuple):
    """What `time_copies` times: ``copies`` copies of ``nbytes`` in one burst, ``repeats`` times for each choice.

    They go through two areas of ``area_nbytes`` in turn, both faulted in and filled with bytes like a payload's.
    An area several times the cache makes them cold. For warm ones take a small area and let ``settling_copies``
    go through it once before each burst, untimed. With ``evict`` each copy's bytes leave the cache before it, and
    it is timed by itself.
    """

    dst_address: int
    src_address: int
    area_nbytes: int
    nbytes: int
    copies: int
    settling_copies: int = 0
    repeats: int = 15
    evict: bool = False


def machine() -> Machine:
    return Machine(*_core.copy_facts())


def parse_choice(parameter: str, text: object) -> Choice:
    """The choice that ``text`` spells; `ConfigError`, which names ``parameter``, if this machine cannot make it."""
    kernels, most, *_ = machine()
    match = re.fullmatch(r"([a-z0-9-]+)(?::([0-9]{1,3}))?", text) if isinstance(text, str) else None
    if match is not None and match[1] in kernels and 1 <= int(match[2] or 1) <= most:
        return Choice(match[1], int(match[2] or 1))
    names = " or ".join(f'"{name}"' for name in kernels)
    raise ConfigError(parameter, text, f'{names}, and where wanted the number of threads: ":1" to ":{most}"')


def prepare(kernel: str | None = None) -> Plan:
    """Makes sure that this process has a plan, and returns it.

    ``kernel`` replaces whatever plan there is. Without it an existing plan stays; else SHMTRANSPORT_COPY_KERNEL
    decides, if it is set and not empty, else `calibrate`. Two threads that come first together may both measure;
    one result stays.
    """
    if kernel is not None:
        return _always(parse_choice("copy_kernel", kernel))
    existing = plan()
    if existing is not None:
        return existing
    if text := os.environ.get(VARIABLE):
        return _always(parse_choice(VARIABLE, text))
    return calibrate()


def calibrate() -> Plan:
    """Measures this machine, 50 to 100 ms, and makes the result the plan. `MemoryError` without 8 MiB of scratch."""
    measured = _core.copy_calibrate()
    _core.copy_set_plan(measured)
    return _named(measured)


def plan() -> Plan | None:
    """The plan that copies follow, or None: then they are plain memcpy."""
    existing = _core.copy_plan()
    return None if existing is None else _named(existing)


def forget_plan() -> None:
    """Back to plain memcpy, until the next `prepare`."""
    _core.copy_set_plan(None)


def choose(nbytes: int, footprint_nbytes: int) -> Choice:
    """What the plan says for a copy of ``nbytes`` into a ring that rotates through ``footprint_nbytes``."""
    return Choice(*_core.copy_choose(nbytes, footprint_nbytes))


def copy(dst_address: int, src_address: int, nbytes: int, footprint_nbytes: int) -> None:
    """Copies as the plan says. The caller vouches for both addresses; they must not overlap.

    From 256 KiB on other Python threads run meanwhile.
    """
    _core.copy(dst_address, src_address, nbytes, footprint_nbytes)


def copy_with(choice: Choice, dst_address: int, src_address: int, nbytes: int) -> None:
    """The same as ``choice`` says, whatever the plan."""
    _core.copy_with(choice, dst_address, src_address, nbytes)


def time_copies(trial: Trial, choices: tuple[Choice, ...]) -> tuple[tuple[float, ...], ...]:
    """Nanoseconds a copy, one tuple of samples for each choice; timed in C, the choices taking turns."""
    return _core.copy_time(
        choices,
        trial.dst_address,
        trial.src_address,
        trial.area_nbytes,
        trial.nbytes,
        trial.settling_copies,
        trial.copies,
        trial.repeats,
        trial.evict,
    )


def _always(choice: Choice) -> Plan:
    choices = (choice,) * len(machine().class_nbytes)
    fixed = Plan(0, choices, choices)
    _core.copy_set_plan(fixed)
    return fixed


def _named(plan: tuple[int, tuple[tuple[str, int], ...], tuple[tuple[str, int], ...]]) -> Plan:
    limit, warm, cold = plan
    return Plan(limit, tuple(Choice(*choice) for choice in warm), tuple(Choice(*choice) for choice in cold))
