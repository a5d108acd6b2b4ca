"""A tensor on a GPU, from one process to another on the same GPU.

Read this first:
* Each way sends a tensor that kernels have finished writing: the clock runs from there until another process has it as
  a CUDA tensor and its device has nothing left to do. What it takes to write it is not in it.
* "shmtransport" is a tensor of a `DevicePool`, by handle. "torch" is PyTorch's own sharing of CUDA memory, as
  `torch.multiprocessing` pickles it. "ring" is an ordinary CUDA tensor by way of the host: from the device into the
  ring and back. "pickle" is its bytes on the host in a message.
* All messages go through one pair of ZMQ sockets. Medians, by turns, in another order each time, after rounds that do
  not count; sums of what arrived are compared with what was sent.

    python bench/gpu_tensors.py            the table; half a minute
    python bench/gpu_tensors.py --json     one list and nothing else
    python bench/gpu_tensors.py --quick    few rounds

Exit status 1 if other bytes came than were sent.
"""

import argparse
import json
import pickle
import random
import secrets
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing  # has ForkingPickler know of tensors

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]  # where Python was told to run this file it finds its folder only

from bench import payloads  # noqa: E402
from bench.machine import machine  # noqa: E402
from bench.peers import sockets  # noqa: E402
from shmtransport import DevicePool, Reader, Ring  # noqa: E402

SIZES = tuple(payloads.BY_NAME[name] for name in ("64 KB", "1 MB", "9.6 MB", "64 MB", "482 MB"))
OWN, TORCH, RING, PICKLE = WAYS = ("shmtransport", "torch", "ring", "pickle")
DEADLINE_MS = 60_000


def sum_of(tensor: torch.Tensor) -> int:
    """Of its bytes, as numbers."""
    return int(tensor.view(torch.int32).sum(dtype=torch.int64))


class Sender:
    """The one that has the tensors; the receiver is this file in a process of its own."""

    def __init__(self) -> None:
        largest = max(payload.nbytes for payload in SIZES)
        room = 2 * largest + (64 << 20)  # the last round's tensor may still be under an event
        self._ring = Ring.create(capacity=room, segment=room, on_full="raise")
        self._pool = DevicePool.create(self._ring, "cuda:0", capacity=room, on_full="raise")
        address = f"ipc://@shmtransport-bench-{secrets.token_hex(8)}"
        self._socket = sockets.bound(address)
        self._receiver = subprocess.Popen([sys.executable, __file__, "--receiver", address, self._ring.id])
        self._peer_id = self._received()["peer_id"]
        self._messages: dict[str, Callable[[torch.Tensor], bytes]] = {
            OWN: lambda tensor: bytes(self._ring.share(tensor, self._peer_id)),
            TORCH: lambda tensor: bytes(ForkingPickler.dumps(tensor)),
            RING: lambda tensor: bytes(self._ring.share(tensor, self._peer_id)),
            PICKLE: lambda tensor: pickle.dumps(tensor.cpu(), protocol=5),
        }

    def _received(self) -> dict[str, Any]:
        if not self._socket.poll(DEADLINE_MS):
            raise RuntimeError(f"no answer from the receiver, whose exit status is {self._receiver.poll()}")
        received: dict[str, Any] = json.loads(self._socket.recv())
        return received

    def once(self, way: str, source: torch.Tensor) -> tuple[float, int]:
        """Seconds, and the sum of what arrived."""
        tensor = self._pool.put(source) if way == OWN else source.clone()
        torch.cuda.synchronize()
        begin = time.monotonic_ns()
        self._socket.send_multipart([way.encode(), self._messages[way](tensor)])
        answer = self._received()
        return (answer["usable_ns"] - begin) / 1e9, answer["sum"]

    def close(self) -> None:
        """Ends the receiver."""
        self._socket.send_multipart([b"end", b""])
        self._receiver.wait(60)
        self._socket.close(linger=0)
        self._pool.close()
        self._ring.close()


def receive(address: str, ring_id: str) -> None:
    """The other process, until it is told to end."""
    torch.zeros(1, device="cuda")
    socket = sockets.connected(address)
    reader = Reader.join(ring_id)
    socket.send(json.dumps({"peer_id": reader.peer_id}).encode())
    opened: dict[bytes, Callable[[bytes], Any]] = {
        OWN.encode(): reader.open,
        TORCH.encode(): pickle.loads,
        RING.encode(): lambda wire: reader.open(wire, device="cuda"),
        PICKLE.encode(): lambda wire: pickle.loads(wire).to("cuda"),
    }
    while True:
        way, message = socket.recv_multipart()
        if way == b"end":
            return
        tensor = opened[way](message)
        torch.cuda.synchronize()
        usable_ns = time.monotonic_ns()
        total = sum_of(tensor)
        del tensor
        socket.send(json.dumps({"usable_ns": usable_ns, "sum": total}).encode())


def measured(rounds: int) -> list[dict[str, Any]]:
    """A row a size and way."""
    rows = []
    order = random.Random(0)
    sender = Sender()
    try:
        for payload in SIZES:
            (tensor,) = payload.request(seed=1)
            source = tensor.cuda()
            expected = sum_of(source)
            took: dict[str, list[float]] = {way: [] for way in WAYS}
            right = dict.fromkeys(WAYS, True)
            for _ in range(rounds + 3):
                for way in order.sample(WAYS, len(WAYS)):
                    seconds, total = sender.once(way, source)
                    took[way].append(seconds)
                    right[way] = right[way] and total == expected
            medians = {way: statistics.median(each[3:]) for way, each in took.items()}
            rows += [
                {
                    "what": "device to the same device in another process",
                    "device": torch.cuda.get_device_name(),
                    "payload": payload.name,
                    "nbytes": payload.nbytes,
                    "way": way,
                    "median_ms": 1e3 * medians[way],
                    "ratio_to_shmtransport": medians[way] / medians[OWN],
                    "verified": right[way],
                }
                for way in WAYS
            ]
    finally:
        sender.close()
    return rows


def as_table(rows: list[dict[str, Any]]) -> str:
    """For people."""
    lines = [f"{machine()}; {torch.cuda.get_device_name()}, torch {torch.__version__}", ""]
    lines += [
        f"{row['payload']:>8}  {row['way']:<14} {row['median_ms']:9.3f} ms  {row['ratio_to_shmtransport']:6.1f} x"
        for row in rows
    ]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print the list and nothing else")
    parser.add_argument("--quick", action="store_true", help="few rounds")
    parser.add_argument("--receiver", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.receiver:
        receive(*options.receiver)
        return 0
    if not torch.cuda.is_available():
        print("CUDA has no device here", file=sys.stderr)
        return 2
    rows = measured(3 if options.quick else 15)
    print(json.dumps(rows) if options.json else as_table(rows))
    return 0 if all(row["verified"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
