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
    """A worker process, for as long as the frontend lives. Its channel joins the frontend's ring by itself."""
    torch.set_num_threads(1)
    frontend = multiprocessing.parent_process()
    with zmq.Context() as context, context.socket(zmq.PAIR) as socket:
        socket.linger = 0
        socket.connect(address)
        with Channel(socket, name="worker") as channel:
            while frontend is None or frontend.is_alive():
                try:
                    request = channel.recv(Request, timeout_s=1.0)
                except WaitTimeoutError:
                    continue  # is the frontend still there?
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
        answer = asyncio.ensure_future(self._answer(request))
        while not (await asyncio.wait({answer}, timeout=0.5))[0]:
            if not self.process.is_alive():
                answer.cancel()  # a send that waits for room is revoked
                await asyncio.wait({answer})
                raise PeerDeadError(f"the worker died, exit code {self.process.exitcode}")
        return answer.result()

    async def _answer(self, request: Request) -> int:
        await self._channel.send(request, timeout_s=600)  # it may still load its model
        return int(await self._channel.recv(int))

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
        self._start, self._workers = partial(worker, context, ring), workers
        self._free: asyncio.Queue[Worker] = asyncio.Queue()
        for _ in range(workers):
            self._free.put_nowait(self._start())

    async def ask(self, request: Request) -> int:
        """The model's answer. Raises `PeerDeadError` if the worker dies that was asked."""
        return await asyncio.shield(self._ask(request))  # who gives up does not leave an answer to the next one

    async def _ask(self, request: Request) -> int:
        worker = self._living(await self._free.get())  # it may have died since
        try:
            return await worker.ask(request)
        finally:
            self._free.put_nowait(self._living(worker))

    def _living(self, worker: Worker) -> Worker:
        if worker.process.is_alive():
            return worker
        worker.close()
        return self._start()

    async def close(self) -> None:
        """Ends each worker once it has answered, be it to somebody who has hung up."""
        for _ in range(self._workers):
            (await self._free.get()).close()


async def main() -> None:
    """Eight requests at once, four a worker."""
    with zmq.asyncio.Context() as context, Ring.create("256MiB", name="frontend") as ring:
        engine = Engine(context, ring)
        try:
            requests = [Request("What is this?", [torch.rand(3, 896, 896)]) for _ in range(8)]
            answers = await asyncio.gather(*map(engine.ask, requests))
            print("right" if answers == list(map(model, requests)) else "wrong")
            print(f"{ring.statistics().writer.shared} of {len(requests)} images by handle")
        finally:
            await engine.close()


if __name__ == "__main__":
    asyncio.run(main())
