"""The engine with tensors by handle, with pickle over ZMQ, and with pickle and zero-copy frames, by turns."""

import asyncio
import pickle
from collections.abc import Sequence
from typing import Any

import torch
import zmq
import zmq.asyncio

from examples.engine.engine import Engine, Request, Worker, model
from examples.measuring import WARM_UPS, Clock
from shmtransport import Ring

REQUESTS = 4
"""At once."""
TURNS = 15


def unpack(frames: Sequence[zmq.Frame]) -> Any:
    """What was pickled, its tensors' memory in the frames behind the first."""
    value = pickle.loads(frames[0].buffer, buffers=[frame.buffer for frame in frames[1:]])
    if isinstance(value, tuple):
        return Request(value[0], [torch.from_numpy(array) for array in value[1]])
    return value


class PlainChannel:
    """What a `Worker` needs of a channel, with pickle."""

    def __init__(self, socket: zmq.asyncio.Socket, _ring: Ring) -> None:
        self._socket = socket

    def pack(self, request: Request) -> list[Any]:
        """One frame."""
        return [pickle.dumps(request, protocol=5)]

    async def send(self, request: Request, *, timeout_s: float) -> None:  # noqa: ARG002
        """To the worker."""
        await self._socket.send_multipart(self.pack(request), copy=False)

    async def recv(self, type: Any) -> Any:  # noqa: ARG002
        """Its answer; pickle knows the ``type``."""
        return pickle.loads(await self._socket.recv())

    def close(self) -> None:
        """Nothing is open."""


class FramedChannel(PlainChannel):
    """The same with each tensor's memory as a frame of its own, which neither end copies."""

    def pack(self, request: Request) -> list[Any]:
        """As many frames as tensors, and one."""
        frames: list[pickle.PickleBuffer] = []
        arrays = [image.numpy() for image in request.images]
        return [pickle.dumps((request.prompt, arrays), protocol=5, buffer_callback=frames.append), *frames]


def plain_work(address: str) -> None:
    """A worker process of both."""
    torch.set_num_threads(1)
    with zmq.Context() as context, context.socket(zmq.PAIR) as socket:
        socket.connect(address)
        while True:
            socket.send(pickle.dumps(model(unpack(socket.recv_multipart(copy=False)))))


class PickledWorker(Worker):
    """Pickle over ZMQ."""

    open = staticmethod(PlainChannel)  # type: ignore[assignment]
    work = staticmethod(plain_work)


class FramedWorker(PickledWorker):
    """And zero-copy frames."""

    open = staticmethod(FramedChannel)


async def main() -> None:
    """Measures the three, and verifies every answer."""
    ways: dict[str, type[Worker]] = {
        "shmtransport": Worker,
        "pickle over ZMQ": PickledWorker,
        "pickle and zero-copy frames over ZMQ": FramedWorker,
    }
    clock = Clock()
    with zmq.asyncio.Context() as context, Ring.create("256MiB", segment="256MiB", name="frontend") as ring:
        engines = {way: Engine(context, ring, worker=worker) for way, worker in ways.items()}
        for _ in range(WARM_UPS + TURNS):
            requests = [Request("What is this?", [torch.rand(3, 896, 896)]) for _ in range(REQUESTS)]
            expected = list(map(model, requests))
            for way, engine in engines.items():
                with clock.timed(way):
                    answers = await asyncio.gather(*map(engine.ask, requests))
                if answers != expected:
                    raise SystemExit(f"{way}: other bytes arrived than were sent")
        for engine in engines.values():
            await engine.close()
    print(clock.report(f"{REQUESTS} requests of 9.6 MB at once, until all are answered"))


if __name__ == "__main__":
    asyncio.run(main())
