"""The engine with tensors by handle, with pickle over ZMQ, and with pickle and zero-copy frames, by turns."""

import asyncio
import pickle
from collections.abc import Sequence
from contextlib import AsyncExitStack
from functools import partial
from tempfile import TemporaryDirectory
from typing import Any, Self

import torch
import zmq
import zmq.asyncio

from examples.engine.engine import Request, by_handle, model, running, serve, worker
from examples.measuring import WARM_UPS, Clock
from shmtransport import Ring

WORKERS = 2
REQUESTS = 4
"""At once."""
TURNS = 15


def pack(value: object, framed: bool) -> list[Any]:
    """A pickle, and where ``framed`` its tensor's memory as a frame of its own, which neither end copies."""
    if not framed or not isinstance(value, Request):
        return [pickle.dumps(value, protocol=5)]
    frames: list[pickle.PickleBuffer] = []
    return [pickle.dumps((value.number, value.pixels.numpy()), protocol=5, buffer_callback=frames.append), *frames]


def unpack(frames: Sequence[zmq.Frame]) -> Any:
    """What was packed."""
    value = pickle.loads(frames[0].buffer, buffers=[frame.buffer for frame in frames[1:]])
    if isinstance(value, tuple):
        return Request(value[0], torch.from_numpy(value[1]))
    return value


class PlainFrontend:
    """What `running` needs of an asyncio channel."""

    def __init__(self, socket: zmq.asyncio.Socket, framed: bool) -> None:
        self._socket, self._framed = socket, framed

    async def send(self, value: object, to: bytes) -> None:
        """To the worker so named."""
        await self._socket.send_multipart([to, *pack(value, self._framed)], copy=False)

    async def recv_from(self, type: Any, *, timeout_s: float | None = None) -> tuple[bytes, Any]:  # noqa: ARG002
        """The next object; pickle knows its ``type``."""
        name, *frames = await asyncio.wait_for(self._socket.recv_multipart(copy=False), timeout_s)
        return name.bytes, unpack(frames)

    async def join(self, to: list[bytes]) -> None:
        """Nothing is joined."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        pass


class PlainWorker:
    """What `serve` needs of a channel."""

    def __init__(self, socket: zmq.Socket[bytes]) -> None:
        self._socket = socket

    def send(self, value: object) -> None:
        """To the frontend."""
        self._socket.send(pickle.dumps(value))

    def recv(self, type: Any) -> Any:  # noqa: ARG002
        """The next object."""
        return unpack(self._socket.recv_multipart(copy=False))


def plain_worker(address: str, name: bytes) -> None:
    """A worker process of the plain forms."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.identity = name
        socket.connect(address)
        serve(PlainWorker(socket))


async def main() -> None:
    """Measures the three, and verifies every answer."""
    clock = Clock()
    with TemporaryDirectory() as folder, Ring.create("256MiB", segment="256MiB", name="frontend") as ring:
        ways: dict[str, tuple[Any, Any]] = {
            "shmtransport": (by_handle(ring), worker),
            "pickle over ZMQ": (partial(PlainFrontend, framed=False), plain_worker),
            "pickle and zero-copy frames over ZMQ": (partial(PlainFrontend, framed=True), plain_worker),
        }
        async with AsyncExitStack() as stack:
            engines = {}
            for index, (way, (open_channel, work)) in enumerate(ways.items()):
                address = f"ipc://{folder}/{index}"
                engines[way], _ = await stack.enter_async_context(running(address, open_channel, work, WORKERS))
            for _ in range(WARM_UPS + TURNS):
                images = [torch.rand(3, 896, 896) for _ in range(REQUESTS)]
                expected = [model(image) for image in images]
                for way, engine in engines.items():
                    with clock.timed(way):
                        answers = await asyncio.gather(*map(engine.ask, images))
                    if answers != expected:
                        raise SystemExit(f"{way}: other bytes arrived than were sent")
    print(clock.report(f"{REQUESTS} requests of 9.6 MB at once, until all are answered"))


if __name__ == "__main__":
    asyncio.run(main())
