"""What CUDA itself does with ring memory: on a device, real copies.

Readers are processes of their own, as in real life; PRELUDE is what each of them begins with.
"""

import contextlib
import json
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from shmtransport import Ring
from tests.processes.children import Child, child
from tests.support import ROOT, run_python

pytestmark = [pytest.mark.needs_gpu, pytest.mark.timeout(300)]

PRELUDE = """
import functools
from shmtransport import _core
from tests.support import wait_until

until = functools.partial(wait_until, timeout_s=60)

def busy(ms):
    torch.cuda._sleep(int(ms * 1.5e6))

torch.zeros(1, device="cuda")
reader = Reader.join(ring_id)
"""
LENGTH = 1 << 20
"""Of the int64 tensors that are sent, of 8 MiB."""


class Receiver:
    """A reader in a process of its own, to which tensors are sent."""

    def __init__(self, ring: Ring, process: Child) -> None:
        self._ring = ring
        self._process = process
        process.run(PRELUDE, ring_id=ring.id)
        self._peer_id = process.ask("reader.peer_id")

    def run(self, code: str, *tensors: torch.Tensor) -> None:
        """Runs ``code`` there, in which ``wires`` are what was sent for ``tensors``."""
        self._process.run(textwrap.dedent(code), wires=self._sent(tensors))

    def run_until_death(self, code: str, *tensors: torch.Tensor) -> int:
        """As `run`, of code that ends the process; its exit status."""
        return self._process.run_until_death(textwrap.dedent(code), wires=self._sent(tensors))

    def ask(self, expression: str) -> object:
        return self._process.ask(expression)

    def _sent(self, tensors: tuple[torch.Tensor, ...]) -> list[bytes]:
        return [bytes(self._ring.share(tensor, self._peer_id)) for tensor in tensors]


@contextlib.contextmanager
def receiver(ring: Ring) -> Iterator[Receiver]:
    """At the end of the ``with`` block it must end by itself, without an error."""
    with child("unrelated") as process:
        yield Receiver(ring, process)
        assert process.finish() == 0


def ring() -> Ring:
    return Ring.create(capacity="64MiB", segment="64MiB", on_full="block", timeout_s=60)


def test_what_is_opened_is_pinned_and_its_copies_do_not_wait() -> None:
    code = """
    tensor = reader.open(*wires)
    assert tensor.is_pinned() and tensor[100:].is_pinned()
    busy(200)
    begin = time.perf_counter()
    there = tensor.to("cuda", non_blocking=True)
    assert time.perf_counter() - begin < 0.05
    assert torch.equal(there.cpu(), torch.arange(len(there)))
    """
    with ring() as made, receiver(made) as reader:
        reader.run(code, torch.arange(LENGTH))


def test_straight_to_a_device() -> None:
    code = """
    stream = torch.cuda.Stream()
    first = reader.open(wires[0], device="cuda:0", stream=stream)
    rest = reader.open_all(wires[1:], device="cuda:0", stream=stream)
    stream.synchronize()
    for i, tensor in enumerate([first, *rest]):
        assert tensor.is_cuda and torch.equal(tensor.cpu(), torch.arange(len(tensor)) + i)
    until(lambda: _core.kept() == 0)
    """
    with ring() as made, receiver(made) as reader:
        reader.run(code, *(torch.arange(LENGTH) + i for i in range(3)))


# A block is written anew as soon as its lease has ended; copies are slower than that, behind a kernel that spins.
STREAMS = """
import ctypes
streams = [torch.cuda.Stream() for _ in range(3)]
cudart = torch.cuda.cudart()
library = ctypes.CDLL(next(line.split()[-1] for line in open("/proc/self/maps") if "libcudart" in line))
raw = ctypes.c_void_p()
assert library.cudaStreamCreateWithFlags(ctypes.byref(raw), 1) == 0
streams.append(torch.cuda.ExternalStream(raw.value))  # one that is not torch's
wrong = [torch.zeros((), dtype=torch.int64, device="cuda") for _ in streams]
torch.cuda.synchronize()

def register_by_hand():
    (mapping,) = [line for line in open("/proc/self/maps") if "shmt-" in line and line.rstrip().endswith("-1")]
    begin, end = (int(part, 16) for part in mapping.split()[0].split("-"))  # of the first data segment
    assert cudart.cudaHostRegister(begin, end - begin, 8) == cudart.cudaError.success
"""
COPY = """
tensor = reader.open(*wires)
if BY_HAND and i == 0:
    register_by_hand()
stream = streams[i % len(streams)]
with torch.cuda.stream(stream):
    busy(1)
    there = tensor.to("cuda", non_blocking=True)
    del tensor
    wrong[i % len(streams)] += (there != i).sum()
    there.record_stream(stream)
i += 1
"""


def wrong_values(monkeypatch: pytest.MonkeyPatch, *, by_event: bool) -> object:
    if not by_event:
        monkeypatch.setenv("SHMTRANSPORT_PINNED", "0")
    with ring() as made, receiver(made) as reader:
        reader.run(f"{STREAMS}\ni, BY_HAND = 0, {not by_event}")
        for i in range(1000):
            reader.run(COPY, torch.full((LENGTH,), i))  # eight of them fill the ring
        reader.run("torch.cuda.synchronize()\nuntil(lambda: _core.kept() == 0)")
        return reader.ask("sum(int(each) for each in wrong)")


def test_a_block_that_is_rewritten_at_once_is_never_seen_by_copies_on_four_streams(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert wrong_values(monkeypatch, by_event=True) == 0


@pytest.mark.posix
def test_without_the_event_they_would_see_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert wrong_values(monkeypatch, by_event=False) != 0


def test_leases_that_end_while_a_graph_is_captured() -> None:
    code = """
    tensor = reader.open(wires[0])
    static = torch.zeros(len(tensor), dtype=torch.int64, device="cuda")
    stream = torch.cuda.Stream()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.stream(stream):
        graph.capture_begin()
        static.add_(1)
        del tensor
        time.sleep(0.2)
        assert _core.kept() == 1
        static.add_(1)
        graph.capture_end()
    graph.replay()
    torch.cuda.synchronize()
    assert int(static.min()) == int(static.max()) == 2
    until(lambda: _core.kept() == 0)
    try:
        with torch.cuda.graph(torch.cuda.CUDAGraph()):
            raise KeyError
    except KeyError:
        pass
    tensor = reader.open(wires[1])
    del tensor
    until(lambda: _core.kept() == 0)
    """
    with ring() as made, receiver(made) as reader:
        reader.run(code, torch.arange(LENGTH), torch.arange(LENGTH))


def test_memory_of_a_ring_that_is_left_is_unregistered() -> None:
    code = """
    tensor = reader.open(*wires)
    registered = _core.pinned_nbytes()
    there = tensor.to("cuda", non_blocking=True)
    reader.close()
    del tensor, reader
    gc.collect()
    until(lambda: _core.pinned_nbytes() == 0)
    assert registered == 64 << 20 and not any("shmt-" in line for line in open("/proc/self/maps"))
    assert torch.equal(there.cpu(), torch.arange(len(there)))
    """
    with ring() as made, receiver(made) as reader:
        reader.run(code, torch.arange(LENGTH))


def test_a_process_ends_in_the_middle_of_its_copies() -> None:
    code = """
    for wire in wires:
        busy(300)
        there = reader.open(wire).to("cuda", non_blocking=True)
    """
    with ring() as made:
        with receiver(made) as reader:
            reader.run(code, *(torch.arange(LENGTH) for _ in range(3)))
            assert reader.ask("_core.kept()") == 3
        made.reap()
        assert made.statistics().blocks == 0


def test_a_lost_device_ends_all_leases() -> None:
    code = """
    tensor = reader.open(*wires)
    torch.zeros(4, device="cuda")[torch.tensor([1 << 40], device="cuda")]
    there = tensor.to("cuda", non_blocking=True)
    del tensor
    until(lambda: _core.kept() == 0)
    os._exit(0)
    """
    with ring() as made, receiver(made) as reader:
        assert reader.run_until_death(code, torch.arange(LENGTH)) == 0


def test_opening_makes_no_context() -> None:
    code = """
    import ctypes, sys
    import torch
    from shmtransport import Ring
    driver = ctypes.CDLL("libcuda.so.1")
    assert driver.cuInit(0) == 0
    def active():
        flags, active = ctypes.c_uint(), ctypes.c_int()
        assert driver.cuDevicePrimaryCtxGetState(0, ctypes.byref(flags), ctypes.byref(active)) == 0
        return active.value
    with Ring.create(capacity="8MiB") as ring:
        for step in range(2):
            tensor = ring.open(ring.share(ring.put(torch.arange(1000)), ring))
            assert not active()
            torch.cuda.init()
        torch.zeros(1, device="cuda")
        assert not tensor.is_pinned()
        ring.open(ring.share(tensor, ring))
        assert tensor.is_pinned()
    """
    run_python(code, timeout_s=120)


@pytest.mark.parametrize(
    ("name", "questions"),
    [
        ("gpu.py", {"host to device", "frontend to device"}),
        ("gpu_tensors.py", {"device to the same device in another process"}),
    ],
)
def test_the_benchmark_prints_what_it_measures(tmp_path: Path, name: str, questions: set[str]) -> None:
    """Not its figures: that it runs, on this machine."""
    done = subprocess.run(
        [sys.executable, ROOT / "bench" / name, "--json", "--quick"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert {row["what"] for row in json.loads(done.stdout)} == questions
