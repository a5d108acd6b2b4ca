"""This project: `shmtransport.asyncio.Channel` in the frontend, `Channel` in the engine.

`Staging` writes images into the ring in the thread that has them, as the vLLM plugin does in the renderer's: what is
sent afterwards is ring-backed. `Copying` gives them to the channel as they are, which copies them in a thread of its
own.
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import cast

import torch
import zmq
import zmq.asyncio

from bench.interferences import sockets
from bench.interferences.request import IMAGES, Request
from bench.interferences.way import IO_THREADS, MEET_S, Receiver, Sender
from shmtransport import Channel, Ring, WaitTimeoutError
from shmtransport import asyncio as shmtransport_asyncio

ALIVE = 4
"""Requests that find room in the ring at once."""
CAPACITY_NBYTES = ALIVE * IMAGES.tensors * (-(-IMAGES.tensor_nbytes // 4096) * 4096)


def ring() -> Ring:
    """All of it there from the start; who finds no room waits, so that nothing goes inline unseen."""
    return Ring.create(CAPACITY_NBYTES, segment=CAPACITY_NBYTES, on_full="block")


class Copying(Sender):
    def __init__(self, address: str) -> None:
        self._context = zmq.asyncio.Context(IO_THREADS)
        self._socket = sockets.router(self._context, address)
        self._ring = ring()
        self._channel = shmtransport_asyncio.Channel(self._socket, self._ring)

    async def meet(self) -> None:
        self._engine, _ = await self._channel.recv_from(timeout_s=MEET_S)
        if not await self._channel.join(self._engine, timeout_s=MEET_S):
            raise RuntimeError("the engine did not join: everything would go inline")
        await self._channel.send("welcome", to=self._engine)

    async def send(self, request: Request) -> None:
        await self._channel.send(request, to=self._engine)

    def close(self) -> None:
        self._channel.close()
        self._ring.close()
        self._socket.close()
        self._context.term()


class Staging(Copying):
    def __init__(self, address: str) -> None:
        super().__init__(address)
        self._thread = ThreadPoolExecutor(1, "images")

    async def stage(self, pixels: list[torch.Tensor]) -> list[torch.Tensor]:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._put, pixels)

    def _put(self, pixels: list[torch.Tensor]) -> list[torch.Tensor]:
        return [self._ring.put(tensor) for tensor in pixels]

    def close(self) -> None:
        self._thread.shutdown()
        super().close()


class TheReceiver(Receiver):
    def __init__(self, address: str) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = sockets.dealer(self._context, address)
        self._channel = Channel(self._socket)
        self._channel.send("here")
        self._channel.recv(timeout_s=MEET_S)  # and joins the ring meanwhile

    def receive(self, timeout_s: float) -> Request:
        try:
            return cast(Request, self._channel.recv(Request, timeout_s=timeout_s))
        except WaitTimeoutError:
            raise TimeoutError(f"no message within {timeout_s} s") from None

    def close(self) -> None:
        self._channel.close()
        self._socket.close()
        self._context.term()
