"""The processor, and what copying a payload into a ring costs on it."""

import ctypes
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median
from typing import Final

from shmtransport import copying, host
from shmtransport.copying import Choice, Trial
from shmtransport.doctor.findings import Finding
from shmtransport.doctor.situation import Situation

_PAYLOAD_NBYTES: Final = 8 << 20
_COPIES: Final = 15
_LIBC: Final = Choice("libc", 1)
_WORTH_A_WARNING: Final = 0.8
"""Of what plain memcpy does; less is not chance."""


def processor(_: Situation) -> Iterator[Finding]:
    """Figures differ from one to another, and so do ratios."""
    cpus = host.cpus()
    yield Finding("processor", "ok", f"{host.cpu_model()}, {cpus} CPU{'s' * (cpus != 1)} for this process")


def copy_kernel(_: Situation) -> Iterator[Finding]:
    """What a payload of 8 MiB is copied with into a large ring, and how fast, beside plain memcpy; 0.2 s."""
    chosen = copying.prepare().cold[-1]
    with _area(mmap.MAP_PRIVATE) as source, _area(mmap.MAP_SHARED) as ring:
        trial = Trial(ring, source, _PAYLOAD_NBYTES, _PAYLOAD_NBYTES, copies=1, repeats=_COPIES, evict=True)
        rate, plain_rate = (_PAYLOAD_NBYTES / median(times) for times in copying.time_copies(trial, (chosen, _LIBC)))
    by_whom = f"{copying.VARIABLE} says so" if os.environ.get(copying.VARIABLE) else "measured"
    text = f"{chosen.kernel} on {_threads(chosen)} ({by_whom}): {rate:.1f} GB/s, plain memcpy {plain_rate:.1f} GB/s"
    if rate < _WORTH_A_WARNING * plain_rate:
        yield Finding("copy kernel", "warning", f"{text}: expected the faster one", f"unset {copying.VARIABLE}")
    else:
        yield Finding("copy kernel", "ok", text)


def _threads(choice: Choice) -> str:
    return "1 thread" if choice.threads == 1 else f"{choice.threads} threads"


@contextmanager
def _area(kind: int) -> Iterator[int]:
    """The address of memory that has been touched: private as a tensor's, or shared as a ring's."""
    memory = mmap.mmap(-1, _PAYLOAD_NBYTES, flags=kind | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE)
    yield ctypes.addressof(ctypes.c_char.from_buffer(memory))
    memory.close()
