"""What runs in the two processes of a way: they do as they are told over a pipe, one order at a time.

The engine waits on the socket when a request is sent, and compares what came byte for byte when nothing is timed.
"""

import resource
import time
from collections import deque
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import torch

from bench.gemma3 import images
from bench.gemma3.memory import Growth
from bench.gemma3.way import frame_nbytes
from bench.gemma3.ways import ALL
from bench.peers import sockets
from bench.peers.ends import answer, orders

TRANSFER_S = 120.0
_ADD = b"\0"
"""vLLM's frame that says what the others are."""


class Sent(NamedTuple):
    """What the frontend says of a request. Times are of CLOCK_MONOTONIC."""

    began_ns: int
    sent_ns: int
    cpu_seconds: float
    growth_nbytes: int
    wire_nbytes: int


class Decoded(NamedTuple):
    """What the engine says of one."""

    there_ns: int
    decoded_ns: int
    cpu_seconds: float
    growth_nbytes: int


class Usage:
    """CPU seconds of this process, all threads, and the memory it needs, from here on."""

    def __init__(self) -> None:
        self._growth = Growth()
        self._cpu_before = _cpu_seconds()

    def end(self) -> tuple[float, int]:
        return _cpu_seconds() - self._cpu_before, self._growth.nbytes()


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def serve_frontend(name: str, address: str, pixels: torch.Tensor, connection: Connection) -> None:
    """The frontend's process. ``pixels``: the images of the longest request, which its owner fills."""
    pixels.sum()  # so that its pages are this process's too, and no growth
    frontend = ALL[name].frontend(pixels.nbytes)
    socket = sockets.bound(address)
    request: Any = None

    def send() -> Sent:
        usage = Usage()
        began_ns = time.monotonic_ns()
        frames = [_ADD, *frontend.encode(request)]
        tracker: Any = socket.send_multipart(frames, copy=False, track=True)
        sent_ns = time.monotonic_ns()
        tracker.wait(TRANSFER_S)
        return Sent(began_ns, sent_ns, *usage.end(), sum(map(frame_nbytes, frames)))

    for order in orders(connection):
        match order:
            case ("introduce",):
                answer(connection, lambda: (frontend.introduction(), frontend.standing_nbytes))
            case "welcomed", said:
                answer(connection, lambda: frontend.welcomed(said))
            case "prepare", count, seed:
                request = frontend.request(pixels[:count], seed)
                answer(connection, lambda: "ready")
            case ("send",):
                answer(connection, send)
                request = None
    frontend.close()
    socket.close(linger=0)


def serve_engine(name: str, address: str, connection: Connection) -> None:
    """The engine's process."""
    engine, keeps_nbytes = ALL[name].engine(), ALL[name].keeps_nbytes
    socket = sockets.connected(address)
    kept: deque[tuple[Any, int]] = deque()

    def receive(count: int, seed: int) -> Decoded:
        connection.send(("done", "waiting"))
        usage = Usage()
        sockets.wait_for_message(socket, TRANSFER_S)
        there_ns = time.monotonic_ns()
        _, *frames = socket.recv_multipart(copy=False)
        request = engine.decode(frames)
        decoded_ns = time.monotonic_ns()
        used = usage.end()
        images.check(engine.pixels(request), seed, count)
        kept.append((request, count * images.NBYTES))
        while kept and sum(nbytes for _, nbytes in kept) > keeps_nbytes:
            kept.popleft()
        return Decoded(there_ns, decoded_ns, *used)

    for order in orders(connection):
        match order:
            case "join", introduction:
                answer(connection, lambda: engine.join(*introduction))
            case "receive", count, seed:
                answer(connection, lambda: receive(count, seed))
