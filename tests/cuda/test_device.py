"""What CUDA itself does with ring memory: on a device, real copies.

Readers are processes of their own, as in real life; PRELUDE is what each of them begins with.
"""

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Self

import pytest
import torch

from shmtransport import Ring
from tests.support import ROOT, run_python, running_python

pytestmark = [pytest.mark.needs_gpu, pytest.mark.timeout(300)]

PRELUDE = """
    import gc, os, sys, time
    import torch
    from shmtransport import Reader, _core

    def until(holds, seconds=60):
        end = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < end, "not so after %s s" % seconds
            time.sleep(0.001)

    def busy(ms):
        torch.cuda._sleep(int(ms * 1.5e6))

    torch.zeros(1, device="cuda")
    reader = Reader.join(sys.argv[1])
    print(reader.peer_id, flush=True)

    def received():
        return bytes.fromhex(input())
"""


class Talk:
    """A reader in a process of its own that is sent tensors."""

    def __init__(self, ring: Ring, code: str) -> None:
        self._ring = ring
        self._running = running_python(textwrap.dedent(PRELUDE) + textwrap.dedent(code), ring.id)

    def __enter__(self) -> Self:
        self._process = self._running.__enter__()
        self._peer_id = self.line()
        return self

    def line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def send(self, tensor: torch.Tensor) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(bytes(self._ring.share(tensor, self._peer_id)).hex() + "\n")
        self._process.stdin.flush()

    def __exit__(self, *error: object) -> None:
        if error[0] is None:
            _, stderr = self._process.communicate(timeout=120)
            assert self._process.returncode == 0, stderr
        self._running.__exit__(None, None, None)


def ring(capacity: str = "64MiB") -> Ring:
    return Ring.create(capacity=capacity, segment=capacity, on_full="block", timeout_s=60)


def test_what_is_opened_is_pinned_and_its_copies_do_not_wait() -> None:
    code = """
    tensor = reader.open(received())
    assert tensor.is_pinned() and tensor[100:].is_pinned()
    busy(200)
    begin = time.perf_counter()
    there = tensor.to("cuda", non_blocking=True)
    assert time.perf_counter() - begin < 0.05
    assert torch.equal(there.cpu(), torch.arange(1 << 20))
    """
    with ring() as made, Talk(made, code) as reader:
        reader.send(torch.arange(1 << 20))


def test_straight_to_a_device() -> None:
    code = """
    stream = torch.cuda.Stream()
    handles = [received() for _ in range(3)]
    first = reader.open(handles[0], device="cuda:0", stream=stream)
    rest = reader.open_all(handles[1:], device="cuda:0", stream=stream)
    stream.synchronize()
    for i, tensor in enumerate([first, *rest]):
        assert tensor.is_cuda and torch.equal(tensor.cpu(), torch.arange(1 << 20) + i)
    until(lambda: _core.kept() == 0)
    """
    with ring() as made, Talk(made, code) as reader:
        for i in range(3):
            reader.send(torch.arange(1 << 20) + i)


# A block is written anew as soon as its lease has ended; copies are slower than that, behind a kernel that spins.
COPIES = """
    import ctypes
    from torch.cuda import ExternalStream
    streams = [torch.cuda.Stream() for _ in range(3)]
    cudart = torch.cuda.cudart()
    library = ctypes.CDLL(next(line.split()[-1] for line in open("/proc/self/maps") if "libcudart" in line))
    raw = ctypes.c_void_p()
    assert library.cudaStreamCreateWithFlags(ctypes.byref(raw), 1) == 0
    streams.append(ExternalStream(raw.value))  # one that is not torch's
    wrong = [torch.zeros((), dtype=torch.int64, device="cuda") for _ in streams]
    torch.cuda.synchronize()
    for i in range(1000):
        tensor = reader.open(received())
        if i == 0 and BY_HAND:
            mapped = [line for line in open("/proc/self/maps") if "shmt-" in line and line.rstrip().endswith("-1")]
            (mapping,) = mapped  # of the first data segment
            begin, end = (int(part, 16) for part in mapping.split()[0].split("-"))
            assert cudart.cudaHostRegister(begin, end - begin, 8) == cudart.cudaError.success
        stream = streams[i % len(streams)]
        with torch.cuda.stream(stream):
            busy(1)
            there = tensor.to("cuda", non_blocking=True)
            del tensor
            wrong[i % len(streams)] += (there != i).sum()
            there.record_stream(stream)
        print("next", flush=True)
    torch.cuda.synchronize()
    print("wrong", sum(int(each) for each in wrong), flush=True)
    until(lambda: _core.kept() == 0)
"""


def wrong_values(monkeypatch: pytest.MonkeyPatch, *, by_event: bool) -> int:
    if not by_event:
        monkeypatch.setenv("SHMTRANSPORT_PINNED", "0")
    with ring() as made, Talk(made, COPIES.replace("BY_HAND", str(not by_event))) as reader:
        for i in range(1000):
            reader.send(torch.full((1 << 20,), i))  # eight of them fill the ring
            assert reader.line() == "next"
        return int(reader.line().removeprefix("wrong "))


def test_a_block_that_is_rewritten_at_once_is_never_seen_by_copies_on_four_streams(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert wrong_values(monkeypatch, by_event=True) == 0


@pytest.mark.posix
def test_without_the_event_they_would_see_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert wrong_values(monkeypatch, by_event=False) > 0


def test_leases_that_end_while_a_graph_is_captured() -> None:
    code = """
    tensor = reader.open(received())
    static = torch.zeros(1 << 20, dtype=torch.int64, device="cuda")
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
    tensor = reader.open(received())
    del tensor
    until(lambda: _core.kept() == 0)
    """
    with ring() as made, Talk(made, code) as reader:
        for _ in range(2):
            reader.send(torch.arange(1 << 20))


def test_memory_of_a_ring_that_is_left_is_unregistered() -> None:
    code = """
    tensor = reader.open(received())
    registered = _core.pinned_nbytes()
    there = tensor.to("cuda", non_blocking=True)
    reader.close()
    del tensor, reader
    gc.collect()
    until(lambda: _core.pinned_nbytes() == 0)
    assert registered == 64 << 20 and not any("shmt-" in line for line in open("/proc/self/maps"))
    assert torch.equal(there.cpu(), torch.arange(1 << 20))
    """
    with ring() as made, Talk(made, code) as reader:
        reader.send(torch.arange(1 << 20))


def test_a_process_ends_in_the_middle_of_its_copies() -> None:
    code = """
    for _ in range(3):
        busy(300)
        there = reader.open(received()).to("cuda", non_blocking=True)
    print(_core.kept(), flush=True)
    """
    with ring() as made:
        with Talk(made, code) as reader:
            for _ in range(3):
                reader.send(torch.arange(1 << 20))
            assert reader.line() == "3"
        made.reap()
        assert made.statistics().blocks == 0


def test_a_lost_device_ends_all_leases() -> None:
    code = """
    tensor = reader.open(received())
    torch.zeros(4, device="cuda")[torch.tensor([1 << 40], device="cuda")]
    there = tensor.to("cuda", non_blocking=True)
    del tensor
    until(lambda: _core.kept() == 0)
    os._exit(0)
    """
    with ring() as made, Talk(made, code) as reader:
        reader.send(torch.arange(1 << 20))


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


def test_the_benchmark_prints_what_it_measures(tmp_path: Path) -> None:
    """Not its figures: that it runs, on this machine."""
    done = subprocess.run(
        [sys.executable, ROOT / "bench" / "gpu.py", "--json", "--quick"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert {row["what"] for row in json.loads(done.stdout)} == {"host to device", "frontend to device"}
