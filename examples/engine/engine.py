"""An inference engine: an asyncio frontend, and worker processes that get their tensors by handle."""

import asyncio
import multiprocessing
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from multiprocessing.process import BaseProcess
from typing import Any

import msgspec
import torch
import zmq
import zmq.asyncio

from shmtransport import Channel, PeerDeadError, Ring
from shmtransport.asyncio import Channel as AsyncChannel


class Request(msgspec.Struct):
    """What a worker is asked."""

    number: int
    pixels: torch.Tensor


class Answer(msgspec.Struct):
    """What it says."""

    number: int
    total: int


def model(pixels: torch.Tensor) -> int:
    """Stands for one: reads every byte. Sums wrap around, so that no order of adding changes the result."""
    return int(pixels.view(-1).view(torch.int64).sum())


def worker(address: str, name: bytes) -> None:
    """A worker process: it joins the frontend's ring when it is introduced to it, inside ``recv``."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.identity = name
        socket.connect(address)
        with Channel(socket, name=name.decode()) as channel:
            serve(channel)


def serve(channel: Any) -> None:
    """Answers requests until it is sent None."""
    torch.set_num_threads(1)
    channel.send("ready")  # from here on the frontend can address it
    while (request := channel.recv(Request | None)) is not None:
        channel.send(Answer(request.number, model(request.pixels)))
        del request  # or its block is held until the next one comes


class Engine:
    """The frontend's side: hands requests to the workers in turn, and answers to whoever asked."""

    def __init__(self, channel: Any, processes: dict[bytes, BaseProcess]) -> None:
        self._channel = channel
        self._workers = list(processes)
        self._waiting: dict[int, tuple[bytes, asyncio.Future[int]]] = {}
        self._asked = 0
        for name, process in processes.items():
            asyncio.get_running_loop().add_reader(process.sentinel, self._lost, name, process)

    async def ask(self, pixels: torch.Tensor) -> int:
        """The model's answer. Raises `PeerDeadError` if the worker that was asked dies, or none is left."""
        if not self._workers:
            raise PeerDeadError("expected a worker to ask, all have died")
        self._asked += 1
        number, name = self._asked, self._workers[self._asked % len(self._workers)]
        answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting[number] = name, answer
        try:
            await self._channel.send(Request(number, pixels), to=name)
            return await answer
        finally:
            del self._waiting[number]

    async def listen(self) -> None:
        """Takes answers until it is cancelled."""
        while True:
            _, answer = await self._channel.recv_from(Answer)
            _, waiting = self._waiting.get(answer.number, (b"", None))
            if waiting is not None and not waiting.done():  # else nobody waits for it any more
                waiting.set_result(answer.total)

    def _lost(self, name: bytes, process: BaseProcess) -> None:
        asyncio.get_running_loop().remove_reader(process.sentinel)
        self._workers.remove(name)
        for asked, answer in self._waiting.values():
            if asked == name and not answer.done():
                answer.set_exception(PeerDeadError(f"worker {name.decode()} died, exit code {process.exitcode}"))

    async def stop(self) -> None:
        """Sends every worker None."""
        for name in self._workers:
            await self._channel.send(None, to=name)


@asynccontextmanager
async def running(
    address: str, open_channel: Callable[[zmq.asyncio.Socket], Any], work: Callable[[str, bytes], None], workers: int
) -> AsyncIterator[tuple[Engine, dict[bytes, BaseProcess]]]:
    """An engine over what ``open_channel`` makes of the frontend's socket, and its processes, which run ``work``."""
    spawn = multiprocessing.get_context("spawn")
    processes: dict[bytes, BaseProcess] = {}
    for index in range(workers):
        name = b"worker-%d" % index
        processes[name] = spawn.Process(target=work, args=(address, name))
        processes[name].start()
    with zmq.asyncio.Context() as context, context.socket(zmq.ROUTER) as socket:
        socket.bind(address)
        async with open_channel(socket) as channel:
            for _ in processes:
                await channel.recv_from(str, timeout_s=30)
            await channel.join(to=list(processes))  # optional: until then tensors go inline
            engine = Engine(channel, processes)
            listening = asyncio.create_task(engine.listen())
            try:
                yield engine, processes
                await engine.stop()
            finally:
                listening.cancel()
                for process in processes.values():
                    await asyncio.to_thread(process.join, 10)
                    process.kill()


def by_handle(ring: Ring) -> Callable[[zmq.asyncio.Socket], AsyncChannel]:
    """The frontend's channel: asyncio's, over ``ring``."""
    return lambda socket: AsyncChannel(socket, ring, name="frontend")
