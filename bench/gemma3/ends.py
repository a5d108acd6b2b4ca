"""The two processes: the frontend, which is the caller's, and an engine, its child; one ZMQ socket for all ways.

The engine does as it is told over a pipe, so that it waits on the socket when a request is sent, and compares what came
byte for byte when nothing is timed any more. Every wait has a deadline.
"""

import multiprocessing
import resource
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import numpy as np
import torch

from bench.gemma3 import images
from bench.gemma3.memory import Growth
from bench.gemma3.way import Engine, Frontend, frame_nbytes, raw
from bench.gemma3.ways import ALL
from bench.peers import sockets

START_S = 120.0
"""An import of vLLM on a busy machine."""
TRANSFER_S = 120.0
LEAVE_S = 20.0
_ADD = b"\0"
"""vLLM's frame that says what the others are."""


class WrongPixelsError(Exception):
    """Other bytes came than were sent."""


class Took(NamedTuple):
    """What one request took."""

    frontend_seconds: float
    """Encoding and the call that sends."""
    engine_seconds: float
    """Taking the message from the socket and decoding it, once it is there."""
    transport_seconds: float
    """From the one's beginning to the other's end."""
    cpu_seconds: float
    """Of both processes, all threads."""
    wire_nbytes: int
    frontend_growth_nbytes: int | None
    engine_growth_nbytes: int | None


class Done(NamedTuple):
    """What the engine says of one."""

    there_ns: int
    decoded_ns: int
    cpu_seconds: float
    growth_nbytes: int | None


def cpu_seconds() -> float:
    """Of this process until now."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def check(pixels: list[torch.Tensor], seed: int, count: int) -> None:
    """Byte for byte. Raises `WrongPixelsError`."""
    if len(pixels) != count:
        raise WrongPixelsError(f"request {seed}: {len(pixels)} images came, {count} were sent")
    for number, got in enumerate(pixels):
        sent = images.image(seed, number)
        if (got.shape, got.dtype) != (sent.shape, sent.dtype) or not np.array_equal(raw(got), raw(sent)):
            raise WrongPixelsError(f"request {seed}: image {number} of {count} came with other bytes")


class Transport:
    """A frontend of each way, and the engine's process."""

    def __init__(self, frontends: Mapping[str, Frontend], socket: sockets.Socket, engine: Connection) -> None:
        self._frontends = frontends
        self._socket = socket
        self._engine = engine
        for name, frontend in frontends.items():
            engine.send(("join", name, frontend.introduction()))
            frontend.welcomed(self._answer(START_S))

    def standing_nbytes(self, name: str) -> int:
        """Of a way's shared memory."""
        return self._frontends[name].standing_nbytes

    def transfer(self, name: str, pixels: torch.Tensor, seed: int, *, measures_memory: bool) -> Took:
        """One request. Raises `WrongPixelsError`, and what the frontend raises."""
        frontend = self._frontends[name]
        self._engine.send(("receive", name, seed, len(pixels), measures_memory))
        self._answer(TRANSFER_S)  # it is about to wait for it
        request = frontend.request(pixels, seed)
        growth = Growth() if measures_memory else None
        cpu_before = cpu_seconds()
        began_ns = time.monotonic_ns()
        frames = [_ADD, *frontend.encode(request)]
        tracker: Any = self._socket.send_multipart(frames, copy=False, track=True)
        sent_ns = time.monotonic_ns()
        wire_nbytes = sum(map(frame_nbytes, frames))
        tracker.wait(TRANSFER_S)
        done: Done = self._answer(TRANSFER_S)
        return Took(
            frontend_seconds=(sent_ns - began_ns) / 1e9,
            engine_seconds=(done.decoded_ns - done.there_ns) / 1e9,
            transport_seconds=(done.decoded_ns - began_ns) / 1e9,
            cpu_seconds=cpu_seconds() - cpu_before + done.cpu_seconds,
            wire_nbytes=wire_nbytes,
            frontend_growth_nbytes=growth.nbytes() if growth else None,
            engine_growth_nbytes=done.growth_nbytes,
        )

    def _answer(self, timeout_s: float) -> Any:
        if not self._engine.poll(timeout_s):
            raise TimeoutError(f"no answer of the engine within {timeout_s:.0f} s")
        answer = self._engine.recv()
        if isinstance(answer, WrongPixelsError):
            raise answer
        return answer


@contextmanager
def transport(names: list[str], most_nbytes: int) -> Iterator[Transport]:
    """The ways so named, for requests of so many bytes."""
    address = f"ipc://@issue-16461-{secrets.token_hex(8)}"
    near, far = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(address, names, far), daemon=True)
    socket = sockets.bound(address)
    frontends: dict[str, Frontend] = {}
    process.start()
    far.close()
    try:
        for name in names:
            frontends[name] = ALL[name].frontend(most_nbytes)
        yield Transport(frontends, socket, near)
    finally:
        near.close()  # which the engine takes for its end
        process.join(LEAVE_S)
        process.kill()
        for frontend in frontends.values():
            frontend.close()
        socket.close(linger=0)


def serve(address: str, names: list[str], orders: Connection) -> None:
    """The engine's process, until its frontend closes the pipe."""
    socket = sockets.connected(address)
    engines = {name: ALL[name].engine() for name in names}
    held: Any = None
    while True:
        try:
            order = orders.recv()
        except EOFError:
            return
        match order:
            case "join", name, introduction:
                orders.send(engines[name].join(*introduction))
            case "receive", name, seed, count, measures_memory:
                held = None  # so that no two requests are alive
                growth = Growth() if measures_memory else None
                orders.send("waiting")
                held, done = receive(socket, engines[name], growth)
                try:
                    check(engines[name].pixels(held), seed, count)
                except WrongPixelsError as error:
                    orders.send(error)
                else:
                    orders.send(done)


def receive(socket: sockets.Socket, engine: Engine, growth: Growth | None) -> tuple[Any, Done]:
    """The next request, and what it took."""
    cpu_before = cpu_seconds()
    sockets.wait_for_message(socket, TRANSFER_S)
    there_ns = time.monotonic_ns()
    _, *frames = socket.recv_multipart(copy=False)
    request = engine.decode(frames)
    decoded_ns = time.monotonic_ns()
    del frames  # of which the request may have parts
    return request, Done(there_ns, decoded_ns, cpu_seconds() - cpu_before, growth.nbytes() if growth else None)
