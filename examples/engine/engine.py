"""An inference engine: an asyncio frontend, worker processes, and the tensors between them by handle."""

import asyncio
import multiprocessing
from functools import partial

import msgspec
import torch
import zmq
import zmq.asyncio

from shmtransport import Channel, PeerDeadError, Ring, WaitTimeoutError
from shmtransport.asyncio import Channel as AsyncChannel


class Request(msgspec.Struct):
    """What a worker is asked."""

    prompt: str
    images: list[torch.Tensor]


def model(request: Request) -> int:
    """Stands for one: reads every byte. Sums wrap around, so that no order of adding changes the result."""
    return int(torch.stack([image.view(-1).view(torch.int64).sum() for image in request.images]).sum())


def work(address: str) -> None:
    """A worker process. Its channel joins the frontend's ring by itself."""
    torch.set_num_threads(1)
    with zmq.Context() as context, context.socket(zmq.PAIR) as socket:
        socket.connect(address)
        with Channel(socket, name="worker") as channel:
            while True:
                request = channel.recv(Request)
                channel.send(model(request))
                del request  # or its blocks are held until the next one comes


class Worker:
    """A worker process as the frontend sees it. It answers one request at a time."""

    open = staticmethod(AsyncChannel)
    work = staticmethod(work)

    def __init__(self, context: zmq.asyncio.Context, ring: Ring) -> None:
        self._socket = context.socket(zmq.PAIR)
        self._socket.bind("ipc://*")
        address = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self.process = multiprocessing.get_context("spawn").Process(target=self.work, args=(address,), daemon=True)
        self.process.start()
        self._channel = self.open(self._socket, ring)

    async def ask(self, request: Request) -> int:
        """Raises `PeerDeadError` if the process dies."""
        await self._channel.send(request)
        while self.process.is_alive():
            try:
                return int(await self._channel.recv(int, timeout_s=0.5))
            except WaitTimeoutError:
                continue  # is it still there?
        raise PeerDeadError(f"the worker died, exit code {self.process.exitcode}")

    def close(self) -> None:
        """Ends the process. What it held comes back to the ring by itself."""
        self.process.kill()
        self.process.join()
        self._channel.close()
        self._socket.close(linger=0)


class Engine:
    """Hands each request to a worker that is free. One that has died is replaced."""

    def __init__(
        self, context: zmq.asyncio.Context, ring: Ring, workers: int = 2, worker: type[Worker] = Worker
    ) -> None:
        self._start = partial(worker, context, ring)
        self._free: asyncio.Queue[Worker] = asyncio.Queue()
        for _ in range(workers):
            self._free.put_nowait(self._start())

    async def ask(self, request: Request) -> int:
        """The model's answer. Raises `PeerDeadError` if the worker dies that was asked."""
        return await asyncio.shield(self._ask(request))  # who gives up does not leave an answer to the next one

    async def _ask(self, request: Request) -> int:
        worker = await self._free.get()
        try:
            return await worker.ask(request)
        finally:
            if not worker.process.is_alive():
                worker.close()
                worker = self._start()
            self._free.put_nowait(worker)

    def close(self) -> None:
        """Ends the workers, when nobody waits for one any more."""
        while not self._free.empty():
            self._free.get_nowait().close()


async def main() -> None:
    """Eight requests at once, four a worker."""
    with zmq.asyncio.Context() as context, Ring.create("256MiB", name="frontend") as ring:
        engine = Engine(context, ring)
        requests = [Request("What is this?", [torch.rand(3, 896, 896)]) for _ in range(8)]
        answers = await asyncio.gather(*map(engine.ask, requests))
        print("right" if answers == list(map(model, requests)) else "wrong")
        print(f"{ring.statistics().writer.shared} of {len(requests)} images by handle")
        engine.close()


if __name__ == "__main__":
    asyncio.run(main())
