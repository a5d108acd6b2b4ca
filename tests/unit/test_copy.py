"""The copy kernels: every byte where it belongs and no other touched, whatever the size, place, kernel and threads."""

import ctypes
import os
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from shmtransport import _core, copying
from shmtransport.copying import Choice, Plan, Trial
from shmtransport.errors import ConfigError
from tests.support import run_python, wait_until

MACHINE = copying.machine()
ALONE = [Choice(kernel, 1) for kernel in MACHINE.kernels]
SHARED = [Choice(kernel, threads) for kernel in MACHINE.kernels for threads in (2, 8)]
LINE_NBYTES = 64
GUARD_NBYTES = 128
MIB = 1 << 20

Bytes = npt.NDArray[np.uint8]
Copy = Callable[[int, int, int], None]


@pytest.fixture(autouse=True)
def no_plan(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every test begins in a process that has not measured, and leaves the plan that others had."""
    monkeypatch.delenv(copying.VARIABLE, raising=False)
    before = _core.copy_plan()
    copying.forget_plan()
    yield
    _core.copy_set_plan(before)


def random_bytes(nbytes: int, seed: int = 0) -> Bytes:
    """Random bytes that begin at the start of a cache line."""
    memory = np.empty(nbytes + LINE_NBYTES, np.uint8)
    aligned = memory[-memory.ctypes.data % LINE_NBYTES :][:nbytes]
    aligned[:] = np.random.default_rng(seed).integers(0, 256, nbytes, dtype=np.uint8)
    return aligned


def copy_as(choice: Choice) -> Copy:
    return lambda dst, src, nbytes: copying.copy_with(choice, dst, src, nbytes)


def wrong_sizes(copy: Copy, sizes: range, spare_nbytes: int = 0) -> list[int]:
    """The sizes for which ``copy`` does not write exactly the right bytes.

    Each is copied to all 64 places in a line, every time from another of the 64; guards lie around each copy. A copy
    that reads up to ``spare_nbytes`` before or behind its source reads nothing that is not there.
    """
    cell_nbytes = sizes[-1] // LINE_NBYTES * LINE_NBYTES + 2 * LINE_NBYTES + 2 * GUARD_NBYTES
    src = random_bytes(sizes[-1] + LINE_NBYTES + 2 * spare_nbytes, seed=1)[spare_nbytes:]
    noise = random_bytes(LINE_NBYTES * cell_nbytes, seed=2)
    dst = random_bytes(noise.nbytes)
    expected = noise.copy()
    wrong = []
    for nbytes in sizes:
        dst[:] = noise
        expected[:] = noise
        for place in range(LINE_NBYTES):
            origin = (37 * place + nbytes) % LINE_NBYTES
            start = place * cell_nbytes + GUARD_NBYTES + place
            copy(dst.ctypes.data + start, src.ctypes.data + origin, nbytes)
            expected[start : start + nbytes] = src[origin : origin + nbytes]
        if not np.array_equal(dst, expected):
            wrong.append(nbytes)
    return wrong


def is_exact(copy: Copy, nbytes: int, place: int, origin: int, seed: int = 0, spare_nbytes: int = 0) -> bool:
    src = random_bytes(nbytes + origin + 2 * spare_nbytes, seed)[spare_nbytes:][: nbytes + origin]
    dst = np.zeros(nbytes + place + 2 * GUARD_NBYTES, np.uint8)
    dst[:GUARD_NBYTES] = dst[-GUARD_NBYTES:] = 0xA5
    start = GUARD_NBYTES + place
    copy(dst.ctypes.data + start, src.ctypes.data + origin, nbytes)
    before, copied, after = np.split(dst, [start, start + nbytes])
    return bool(
        np.array_equal(copied, src[origin:])
        and (before[:GUARD_NBYTES] == 0xA5).all()
        and (before[GUARD_NBYTES:] == 0).all()
        and (after[-GUARD_NBYTES:] == 0xA5).all()
    )


@pytest.mark.parametrize("choice", ALONE, ids=str)
def test_every_size_to_4_kib_is_exact_at_64_offsets(choice: Choice) -> None:
    assert wrong_sizes(copy_as(choice), range(4097)) == []


@pytest.mark.parametrize("choice", ALONE + SHARED, ids=str)
def test_random_sizes_to_64_mib_are_exact(choice: Choice, rng: random.Random) -> None:
    for nbytes in (64 * MIB, *(int(2 ** rng.uniform(12, 26)) for _ in range(8))):
        place, origin = rng.randrange(64), rng.randrange(64)
        assert is_exact(copy_as(choice), nbytes, place, origin, seed=nbytes), (nbytes, place, origin)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda dst, src, nbytes: ctypes.memmove(dst, src, max(nbytes - 1, 0)),
        lambda dst, src, nbytes: ctypes.memmove(dst, src, nbytes + 1),
        lambda dst, src, nbytes: ctypes.memmove(dst - 1, src - 1, nbytes + 1),
        lambda dst, src, nbytes: ctypes.memmove(dst, src + 1, nbytes),
    ],
    ids=["too short", "too long", "too early", "shifted"],
)
def test_the_check_notices_a_wrong_copy(wrong: Copy) -> None:
    assert wrong_sizes(wrong, range(60, 70), spare_nbytes=LINE_NBYTES) == list(range(60, 70))
    assert not is_exact(wrong, MIB, 3, 5, spare_nbytes=LINE_NBYTES)


@pytest.mark.parametrize("threads", [1, 2, 8])
def test_several_python_threads_copy_at_once(threads: int) -> None:
    """The pool serves one of them at a time; the others go on alone."""
    choice = Choice(MACHINE.kernels[-1], threads)
    sources = [random_bytes(3 * MIB + 17 * i, seed=i) for i in range(4)]
    exact: list[bool] = []

    def copy_again_and_again(src: Bytes) -> None:
        for _ in range(20):
            dst = np.zeros_like(src)
            copying.copy_with(choice, dst.ctypes.data, src.ctypes.data, src.nbytes)
            exact.append(np.array_equal(dst, src))

    copiers = [threading.Thread(target=copy_again_and_again, args=(src,)) for src in sources]
    for copier in copiers:
        copier.start()
    for copier in copiers:
        copier.join(timeout=50)
    assert exact == [True] * 80


COUNT_POOL_THREADS = """
    import ctypes, os, pathlib, sys
    from shmtransport import copying
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:int(sys.argv[1])])
    src, dst = bytearray(os.urandom(16 << 20)), bytearray(16 << 20)
    addresses = [ctypes.addressof(ctypes.c_char.from_buffer(area)) for area in (dst, src)]
    before = len(os.listdir("/proc/self/task"))
    copying.copy_with(copying.Choice("libc", 8), *addresses, len(src))
    assert dst == src
    machine = copying.machine()
    print(machine.threads, machine.planned_threads, len(os.listdir("/proc/self/task")) - before)
"""


@pytest.mark.parametrize("cpus", [1, 2])
def test_the_pool_has_no_more_threads_than_the_process_has_cpus(cpus: int) -> None:
    cpus = min(cpus, len(os.sched_getaffinity(0)))
    limit, planned, started = map(int, run_python(COUNT_POOL_THREADS, cpus).stdout.split())
    assert limit == cpus
    assert planned == 1
    assert started == cpus - 1


FORK_WHILE_COPYING = """
    import os, threading, time
    import numpy as np
    from shmtransport import copying

    choice = copying.Choice(copying.machine().kernels[-1], 8)
    src = np.random.default_rng(0).integers(0, 256, 4 << 20, dtype=np.uint8)

    def copy():
        dst = np.zeros_like(src)
        copying.copy_with(choice, dst.ctypes.data, src.ctypes.data, src.nbytes)
        return np.array_equal(dst, src)

    assert copy()
    over = threading.Event()
    exact = []

    def copy_until_over():
        while not over.is_set():
            exact.append(copy())

    copier = threading.Thread(target=copy_until_over)
    copier.start()
    children = []
    for _ in range(20):
        child = os.fork()
        if child == 0:
            inherited = len(os.listdir("/proc/self/task"))
            right = copy() and copy()
            started = len(os.listdir("/proc/self/task")) - inherited
            os._exit(0 if (right, inherited, started) == (True, 1, copying.machine().threads - 1) else 1)
        children.append(child)
    statuses = [os.waitpid(child, 0)[1] for child in children]
    over.set()
    copier.join()
    assert statuses == [0] * 20, statuses
    assert exact and all(exact)
"""


def test_a_child_forked_in_the_middle_of_a_copy_has_a_pool_of_its_own() -> None:
    run_python(FORK_WHILE_COPYING, timeout_s=50)


def test_a_forked_child_keeps_the_plan() -> None:
    plan = copying.prepare("libc:1")
    child = os.fork()
    if child == 0:
        os._exit(0 if copying.plan() == plan else 1)
    assert os.waitpid(child, 0)[1] == 0


@pytest.fixture
def never_switched() -> Iterator[None]:
    """Python does not take the interpreter away from a thread; a thread can only give it up."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    yield
    sys.setswitchinterval(before)


@pytest.mark.parametrize(("nbytes", "released"), [((256 << 10) - 1, False), (256 << 10, True)])
@pytest.mark.usefixtures("never_switched")
def test_other_python_threads_run_during_copies_of_256_kib_and_more(nbytes: int, released: bool) -> None:
    src, dst = random_bytes(nbytes), random_bytes(nbytes, seed=1)
    start, ran = threading.Lock(), threading.Event()
    start.acquire()

    def run() -> None:
        with start:
            ran.set()

    other = threading.Thread(target=run)
    other.start()
    start.release()
    deadline = time.monotonic() + (20 if released else 0.2)
    while not ran.is_set() and time.monotonic() < deadline:
        _core.copy(dst.ctypes.data, src.ctypes.data, nbytes, 0)
    seen = ran.is_set()
    other.join(timeout=20)
    assert seen is released


LIBC, OTHER = Choice("libc", 1), Choice(MACHINE.kernels[-1], 1)


def test_a_copy_is_plain_memcpy_until_there_is_a_plan() -> None:
    assert copying.plan() is None
    assert {copying.choose(1 << power, footprint) for power in range(40) for footprint in (0, 1 << 40)} == {LIBC}


def test_a_plan_goes_by_size_and_by_what_the_ring_rotates_through() -> None:
    kernel = MACHINE.kernels[-1]
    cold = tuple(Choice(kernel, threads) for threads in (1, 1, 2, 4))
    plan = Plan(8 * MIB, (LIBC,) * 4, cold)
    _core.copy_set_plan(plan)
    assert copying.plan() == plan
    assert MACHINE.class_nbytes == (64 << 10, 256 << 10, MIB, 4 * MIB)
    for footprint, large in ((8 * MIB, (LIBC,) * 4), (8 * MIB + 1, cold)):
        assert copying.choose((64 << 10) - 1, footprint) == LIBC
        for i, nbytes in enumerate(MACHINE.class_nbytes):
            assert copying.choose(nbytes, footprint) == large[i]
            assert copying.choose(4 * nbytes - 1, footprint) == large[i]
        assert copying.choose(1 << 40, footprint) == large[3]


def test_no_thread_is_planned_for_less_than_half_a_mebibyte() -> None:
    _core.copy_set_plan(Plan(0, (Choice("libc", 8),) * 4, (Choice("libc", 8),) * 4))
    assert copying.choose(MIB - 1, 1).threads == 1
    assert copying.choose(2 * MIB, 1).threads == 4
    assert copying.choose(4 * MIB, 1).threads == 8


def test_a_planned_copy_is_exact() -> None:
    for choice in ALONE + SHARED:
        _core.copy_set_plan(Plan(0, (choice,) * 4, (choice,) * 4))
        for nbytes in (0, 1, 4095, 65535, 65536, 300_001, 5 * MIB + 7):
            assert is_exact(lambda dst, src, n: copying.copy(dst, src, n, 1 << 30), nbytes, 7, 3)


def test_a_process_measures_once_and_only_possible_choices_come_out(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = copying.prepare()
    assert copying.plan() == plan
    assert 0 < plan.warm_limit_nbytes <= MACHINE.cache_nbytes
    assert len(plan.warm) == len(plan.cold) == len(MACHINE.class_nbytes)
    for choice in plan.warm + plan.cold:
        assert choice.kernel in MACHINE.kernels
        assert 1 <= choice.threads <= MACHINE.planned_threads
    monkeypatch.delattr(_core, "copy_calibrate")
    assert copying.prepare() == plan


def test_a_plan_is_measured_within_a_second() -> None:
    start = time.thread_time()
    copying.calibrate()
    assert time.thread_time() - start < 1.0


@pytest.mark.parametrize("text", [f"{kernel}{threads}" for kernel in MACHINE.kernels for threads in ("", ":1")])
def test_the_kernel_can_be_chosen_by_hand(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(_core, "copy_calibrate")
    expected = Choice(text.partition(":")[0], 1)
    monkeypatch.setenv(copying.VARIABLE, text)
    assert copying.prepare() == copying.plan()
    assert copying.choose(MIB, 1 << 30) == copying.choose(1 << 30, 1) == expected
    assert copying.prepare("libc") == copying.plan()
    assert copying.choose(MIB, 1 << 30) == LIBC


def test_an_argument_goes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(copying.VARIABLE, "no such kernel")
    copying.prepare("libc")
    assert copying.choose(MIB, 1 << 30) == LIBC


WRONG = [
    "avx9",
    "libc:0",
    f"libc:{MACHINE.threads + 1}",
    "libc:x",
    "libc:",
    ":1",
    "LIBC",
    " libc",
    "libc:1:1",
    "libc:-1",
]


@pytest.mark.parametrize("text", WRONG)
def test_a_wrong_choice_is_named_with_what_is_taken(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(copying.VARIABLE, text)
    with pytest.raises(ConfigError) as from_environment:
        copying.prepare()
    with pytest.raises(ConfigError) as from_argument:
        copying.prepare(text)
    for error, parameter in ((from_environment, copying.VARIABLE), (from_argument, "copy_kernel")):
        assert str(error.value).startswith(f"{parameter}: ")
        assert repr(text) in str(error.value)
        assert '"libc"' in str(error.value)
        assert f'":{MACHINE.threads}"' in str(error.value)
    assert copying.plan() is None


def test_an_empty_variable_is_as_good_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(copying.VARIABLE, "")
    assert len(copying.prepare().cold) == len(MACHINE.class_nbytes)


@pytest.mark.parametrize(
    ("plan", "error"),
    [
        ((0, (("libc", 1),) * 4, (("libc", 1),) * 3), ValueError),
        ((0, (("libc", 1),) * 4, (("no such kernel", 1),) * 4), ValueError),
        ((-1, (("libc", 1),) * 4), TypeError),
        ("libc", TypeError),
    ],
)
def test_a_malformed_plan_changes_nothing(plan: Plan, error: type[Exception]) -> None:
    before = copying.prepare("libc")
    with pytest.raises(error):
        _core.copy_set_plan(plan)
    assert copying.plan() == before


def test_timing_gives_each_choice_its_samples_and_copies_what_it_times() -> None:
    src, dst = random_bytes(MIB), random_bytes(MIB, seed=1)
    for evict in (False, True):
        dst[:] = 0
        trial = Trial(dst.ctypes.data, src.ctypes.data, MIB, MIB // 4, copies=4, repeats=3, evict=evict)
        samples = copying.time_copies(trial, tuple(ALONE))
        assert [len(each) for each in samples] == [3] * len(ALONE)
        assert all(ns > 0 for each in samples for ns in each)
        assert np.array_equal(dst, src)


def test_timing_refuses_a_copy_larger_than_its_area() -> None:
    src, dst = random_bytes(4096), random_bytes(4096)
    with pytest.raises(ValueError, match="within the area"):
        copying.time_copies(Trial(dst.ctypes.data, src.ctypes.data, 4096, 4097, copies=1), (LIBC,))


def states_of_the_pool() -> list[str]:
    """The kernel's letter for each of its threads: R for running, S for sleeping."""
    status = [path.read_text() for path in Path("/proc/self/task").glob("*/status")]
    return [text.split("State:\t")[1][0] for text in status if text.startswith("Name:\tshmt-copy\n")]


def test_the_pool_sleeps_when_there_is_nothing_to_copy() -> None:
    src, dst = random_bytes(8 * MIB), random_bytes(8 * MIB, seed=1)
    copying.copy_with(Choice("libc", 8), dst.ctypes.data, src.ctypes.data, src.nbytes)
    wait_until(lambda: states_of_the_pool() == ["S"] * (MACHINE.threads - 1))
