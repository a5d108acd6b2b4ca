"""From a frontend's memory to another process's GPU: what DMA from a ring does, and the whole way.

Read this first:
* "host to device" is one process that has tensors of each size in four kinds of memory and copies them to the device,
  by turns: pinned (torch's), a ring's as this project registers it, a ring's that is not registered, and ordinary. The
  rate is by CUDA events around the copies of one turn; "issue" is how long the call keeps its thread.
* "frontend to device" is 100 images of 896 x 896 in bfloat16, 482 MB, that lie in a frontend's ordinary memory, until
  they can be used on the device by another process: put, one message of handles, one DMA each. Beside it the best
  that plain ZMQ does (each tensor a frame that is not copied, a view of it, `pin_memory()`, DMA) and, where vLLM is
  installed, its direct_rpc: its own `MsgpackEncoder` and `MsgpackDecoder`, then the same. The floor is the copy into
  the ring alone plus the DMA from pinned memory alone, medians of the same run.
* Medians, by turns, in another order each time, after rounds that do not count. Sums of what arrived are compared with
  what was sent.

    python bench/gpu.py                the table; a minute
    python bench/gpu.py --json         one list and nothing else
    python bench/gpu.py --quick        few rounds

Exit status 1 if other bytes came than were sent.
"""

import argparse
import importlib.util
import json
import os
import random
import secrets
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import zmq

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]  # where Python was told to run this file it finds its folder only

from bench import payloads  # noqa: E402
from bench.machine import machine  # noqa: E402
from bench.peers import sockets  # noqa: E402
from shmtransport import Reader, Ring  # noqa: E402

SIZES = tuple(payloads.BY_NAME[name] for name in ("1 MB", "9.6 MB", "64 MB", "482 MB"))
IMAGES = payloads.BY_NAME["100 x 4.8 MB"]
RING_NBYTES = IMAGES.nbytes + (64 << 20)
COPIED_NBYTES = 1 << 30
ROUNDS_NBYTES = 100 << 20
"""Smaller tensors are copied in more rounds."""
OWN, FRAMES, VLLM = "shmtransport", "frames, pinned", "vLLM direct_rpc, pinned"
WAYS = (OWN, FRAMES, VLLM) if importlib.util.find_spec("vllm") else (OWN, FRAMES)


def sum_of(tensors: list[torch.Tensor]) -> int:
    """Of their bytes, as numbers."""
    return sum(int(tensor.view(torch.int32).sum(dtype=torch.int64)) for tensor in tensors)


# -- the frontend ------------------------------------------------------------------------------------------------------


class Frontend:
    """The one that has the tensors; the engine is this file in a process of its own."""

    def __init__(self, *, quick: bool) -> None:
        self._rounds = 3 if quick else 15
        self._ring, self._plain = (
            Ring.create(capacity=RING_NBYTES, segment=RING_NBYTES, on_full="block", timeout_s=60) for _ in range(2)
        )
        address = f"ipc://@shmtransport-bench-{secrets.token_hex(8)}"
        self._socket = sockets.bound(address)
        command = [sys.executable, __file__, "--engine", address, self._ring.id, self._plain.id]
        self._engine = subprocess.Popen(command)
        self._peers = [self._receive()["peer_id"] for _ in range(2)]

    def _receive(self) -> dict[str, Any]:
        while not self._socket.poll(1000):
            if self._engine.poll() is not None:
                raise RuntimeError(f"the engine ended with {self._engine.returncode}")
        received: dict[str, Any] = json.loads(self._socket.recv())
        return received

    def _ask(self, *frames: Any, **what: Any) -> dict[str, Any]:
        head = json.dumps(what).encode()
        parts = [each.numpy().data if isinstance(each, torch.Tensor) else each for each in frames]
        self._socket.send_multipart([head, *parts], copy=False)
        return self._receive()

    def host_to_device(self) -> Iterator[dict[str, Any]]:
        """A row a size and kind of memory."""
        for payload in SIZES:
            (tensor,) = payload.request(seed=1)
            rings = zip((self._ring, self._plain), self._peers, strict=True)
            handles = [bytes(ring.share(tensor, peer)) for ring, peer in rings]
            answer = self._ask(*handles, do="rates", rounds=self._rounds)
            for memory, (gbps, issue_us) in answer["rates"].items():
                yield {
                    "what": "host to device",
                    "device": torch.cuda.get_device_name(),
                    "payload": payload.name,
                    "nbytes": payload.nbytes,
                    "way": memory,
                    "gbps": gbps,
                    "issue_us": issue_us,
                    "ratio_to_pinned": gbps / answer["rates"]["pinned"][0],
                    "verified": answer["verified"],
                }

    def frontend_to_device(self) -> Iterator[dict[str, Any]]:
        """A row a way, and the floor."""
        took: dict[str, list[float]] = {way: [] for way in (*WAYS, "copy")}
        sends = {OWN: self._by_handle, FRAMES: self._by_frame, VLLM: self._by_vllm}
        dma_s, right = 0.0, True
        images = IMAGES.request(seed=1)
        expected = sum_of(images)
        for number in range(self._rounds + 2):
            for way in WAYS:
                begin = time.monotonic_ns()
                answer = sends[way](images)
                right = right and answer["sum"] == expected
                took[way].append((answer["usable_ns"] - begin) / 1e9)
            begin = time.monotonic_ns()
            copies = [self._ring.put(image) for image in images]
            took["copy"].append((time.monotonic_ns() - begin) / 1e9)
            if number == 0:
                handles = [bytes(self._ring.share(copy, self._peers[0])) for copy in copies]
                dma_s = self._ask(*handles, do="dma", rounds=self._rounds)["seconds"]
            del copies
        medians = {way: statistics.median(each[2:]) for way, each in took.items()}
        floor = medians["copy"] + dma_s
        for way in WAYS:
            yield {
                "what": "frontend to device",
                "device": torch.cuda.get_device_name(),
                "payload": IMAGES.name,
                "nbytes": IMAGES.nbytes,
                "way": way,
                "seconds": medians[way],
                "copy_seconds": medians["copy"],
                "dma_seconds": dma_s,
                "ratio_to_floor": medians[way] / floor,
                "verified": right,
            }

    def _by_handle(self, images: list[torch.Tensor]) -> dict[str, Any]:
        return self._ask(*(bytes(self._ring.share(image, self._peers[0])) for image in images), do=OWN)

    def _by_frame(self, images: list[torch.Tensor]) -> dict[str, Any]:
        return self._ask(*(image.view(torch.uint8) for image in images), do=FRAMES)

    def _by_vllm(self, images: list[torch.Tensor]) -> dict[str, Any]:
        from vllm.v1.serial_utils import MsgpackEncoder

        return self._ask(*MsgpackEncoder().encode(images), do=VLLM)

    def close(self) -> None:
        """Ends the engine."""
        self._socket.send_multipart([json.dumps({"do": "end"}).encode()])
        self._engine.wait(60)
        self._socket.close(linger=0)
        self._ring.close()
        self._plain.close()


# -- the engine --------------------------------------------------------------------------------------------------------


class Engine:
    """The one that has the device."""

    def __init__(self, address: str, ring_id: str, plain_id: str) -> None:
        warnings.filterwarnings("ignore", message="The given buffer is not writable")  # of frames; nobody writes
        torch.zeros(1, device="cuda")
        self._socket = sockets.connected(address)
        self._registered = Reader.join(ring_id)
        self._registered.map_ahead()
        os.environ["SHMTRANSPORT_PINNED"] = "0"  # for the other ring
        self._plain = Reader.join(plain_id)
        for reader in (self._registered, self._plain):
            self._answer(peer_id=reader.peer_id)

    def _answer(self, **what: Any) -> None:
        self._socket.send(json.dumps(what).encode())

    def run(self) -> None:
        """Until the frontend ends it."""
        while True:
            head, *frames = self._socket.recv_multipart(copy=False)
            what = json.loads(head.bytes)
            if what["do"] == "end":
                return
            if what["do"] == "rates":
                self._rates([frame.bytes for frame in frames], what["rounds"])
            elif what["do"] == "dma":
                self._dma([frame.bytes for frame in frames], what["rounds"])
            elif what["do"] == OWN:
                self._usable(self._registered.open_all([frame.buffer for frame in frames], device="cuda"))
            else:
                received = self._by_vllm(frames) if what["do"] == VLLM else self._by_frame(frames)
                self._usable([tensor.pin_memory().to("cuda", non_blocking=True) for tensor in received])

    def _by_frame(self, frames: list[zmq.Frame]) -> list[torch.Tensor]:
        dtype = payloads.torch_dtype(IMAGES.dtype)
        return [torch.frombuffer(frame.buffer, dtype=dtype).view(IMAGES.shape) for frame in frames]

    def _by_vllm(self, frames: list[zmq.Frame]) -> list[torch.Tensor]:
        from vllm.v1.serial_utils import MsgpackDecoder

        received: list[torch.Tensor] = MsgpackDecoder(list[torch.Tensor]).decode(frames)
        return received

    def _usable(self, tensors: list[torch.Tensor]) -> None:
        torch.cuda.synchronize()
        usable_ns = time.monotonic_ns()
        self._answer(usable_ns=usable_ns, sum=sum_of(tensors))

    def _rates(self, handles: list[bytes], rounds: int) -> None:
        ring, plain = self._registered.open(handles[0]), self._plain.open(handles[1])
        assert isinstance(ring, torch.Tensor)
        assert isinstance(plain, torch.Tensor)
        assert ring.is_pinned()
        assert not plain.is_pinned()
        memories = {
            "pinned": ring.clone().pin_memory(),
            "ring": ring,
            "unregistered ring": plain,
            "ordinary": ring.clone(),
        }
        there = torch.empty_like(ring, device="cuda")
        times = max(1, min(50, COPIED_NBYTES // ring.nbytes // 8))
        rates: dict[str, list[float]] = {name: [] for name in memories}
        issues: dict[str, list[float]] = {name: [] for name in memories}
        right = True
        order = random.Random(0)  # whoever always came behind the same one would pay for what that one leaves behind
        for _ in range(max(rounds, ROUNDS_NBYTES // ring.nbytes) + 2):
            for name in order.sample(list(memories), len(memories)):
                memory = memories[name]
                gbps, issue_us = timed(lambda: there.copy_(memory, non_blocking=True), times, ring.nbytes)  # noqa: B023
                rates[name].append(gbps)
                issues[name].append(issue_us)
        for memory in memories.values():
            there.copy_(memory)
            right = right and torch.equal(there.cpu().view(torch.uint8), memory.view(torch.uint8))
        medians = {name: (statistics.median(rates[name][2:]), statistics.median(issues[name][2:])) for name in memories}
        self._answer(rates=medians, verified=right)

    def _dma(self, handles: list[bytes], rounds: int) -> None:
        pinned = [torch.as_tensor(self._registered.open(each)).clone().pin_memory() for each in handles]
        seconds = []
        for _ in range(rounds + 2):
            torch.cuda.synchronize()
            begin = time.monotonic_ns()
            there = [tensor.to("cuda", non_blocking=True) for tensor in pinned]
            torch.cuda.synchronize()
            seconds.append((time.monotonic_ns() - begin) / 1e9)
            del there
        self._answer(seconds=statistics.median(seconds[2:]))


def timed(copy: Callable[[], object], times: int, nbytes: int) -> tuple[float, float]:
    """GB/s of so many copies by the device's clock, and microseconds a call by the host's."""
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    torch.cuda.synchronize()
    first.record()
    begin = time.perf_counter_ns()
    for _ in range(times):
        copy()
    issued = time.perf_counter_ns()
    last.record()
    last.synchronize()
    return nbytes * times / (first.elapsed_time(last) * 1e6), (issued - begin) / times / 1e3


# -- both --------------------------------------------------------------------------------------------------------------


def as_table(rows: list[dict[str, Any]]) -> str:
    """For people."""
    lines = [f"{machine()}; {torch.cuda.get_device_name()}, torch {torch.__version__}", ""]
    for row in rows:
        head = f"{row['payload']:>12}  {row['way']:<18}"
        if row["what"] == "host to device":
            rate = f"{row['gbps']:6.1f} GB/s, {row['ratio_to_pinned']:.2f} of pinned"
            lines.append(f"{head} {rate}, {row['issue_us']:8.1f} us a call")
        else:
            floor = f"copy {1e3 * row['copy_seconds']:.1f} + DMA {1e3 * row['dma_seconds']:.1f} ms"
            lines.append(f"{head} {1e3 * row['seconds']:7.1f} ms, {row['ratio_to_floor']:.2f} of {floor}")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print the list and nothing else")
    parser.add_argument("--quick", action="store_true", help="few rounds")
    parser.add_argument("--engine", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.engine:
        Engine(*options.engine).run()
        return 0
    if not torch.cuda.is_available():
        print("CUDA has no device here", file=sys.stderr)
        return 2
    frontend = Frontend(quick=options.quick)
    try:
        rows = [*frontend.host_to_device(), *frontend.frontend_to_device()]
    finally:
        frontend.close()
    print(json.dumps(rows) if options.json else as_table(rows))
    return 0 if all(row["verified"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
