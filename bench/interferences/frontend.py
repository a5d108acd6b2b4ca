"""The frontend's process: `python -m bench.interferences.frontend WAY ADDRESS FD`. One event loop, as an API server's.

Each text is a task of its own, started when it is due, as if a user had sent it; requests with images go one after the
other from a further task, at their own pace.
"""

import asyncio
import gc
import sys
import time
from collections.abc import AsyncIterator
from multiprocessing.connection import Connection

import torch

from bench.interferences import request
from bench.interferences.request import POOL, Request
from bench.interferences.way import Sender, sender_type
from bench.peers.ends import answer, orders

TICK_S = 0.001


async def paced(count: int, every_s: float) -> AsyncIterator[int]:
    """So many numbers, each when it is due, or at once if that is over."""
    loop = asyncio.get_running_loop()
    start = loop.time()
    for number in range(count):
        await asyncio.sleep(start + number * every_s - loop.time())
        yield number


class Frontend:
    """What the process is told to do."""

    def __init__(self, sender: Sender) -> None:
        self._sender = sender
        self._pool = [request.images(number) for number in range(POOL)]

    async def texts(self, count: int, every_s: float, requests: int, request_every_s: float) -> None:
        """Texts, and requests with images meanwhile."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._send_requests(requests, request_every_s))
            async for number in paced(count, every_s):
                group.create_task(self._send(number, []))

    async def ticks(self, periods: int, every_s: float, *, loaded: bool) -> list[list[float]]:
        """By how many seconds each tick of a millisecond was late, period by period; in each a request, if so told."""
        loop = asyncio.get_running_loop()
        late: list[list[float]] = [[]]

        async def tick() -> None:
            while True:
                due = loop.time() + TICK_S
                await asyncio.sleep(TICK_S)
                late[-1].append(loop.time() - due)

        ticking = asyncio.create_task(tick())
        async for number in paced(periods + 1, every_s):
            late.append([])
            if loaded and number < periods:
                await self._send_request(number)
        ticking.cancel()
        return late[1:-1]

    async def _send_requests(self, count: int, every_s: float) -> None:
        async for number in paced(count, every_s):
            await self._send_request(number)

    async def _send_request(self, number: int) -> None:
        await self._send(number, await self._sender.stage(self._pool[number % POOL]))

    async def _send(self, number: int, pixels: list[torch.Tensor]) -> None:
        await self._sender.send(Request(number, request.prompt(number), time.monotonic_ns(), pixels))


async def made(name: str, address: str) -> tuple[Sender, Frontend]:
    """Both, when the engine is there."""
    sender = sender_type(name)(address)
    await sender.meet()
    frontend = Frontend(sender)
    gc.collect()
    gc.freeze()  # as vLLM's frontend does
    return sender, frontend


def main() -> None:
    name, address, fd = sys.argv[1:]
    connection = Connection(int(fd))
    with asyncio.Runner() as runner:
        found: list[tuple[Sender, Frontend]] = []
        if not answer(connection, lambda: found.append(runner.run(made(name, address)))):
            return
        sender, frontend = found[0]
        for order in orders(connection):
            match order:
                case "texts", count, every_s, requests, request_every_s:
                    answer(connection, lambda: runner.run(frontend.texts(count, every_s, requests, request_every_s)))
                case "ticks", periods, every_s, loaded:
                    answer(connection, lambda: runner.run(frontend.ticks(periods, every_s, loaded=loaded)))
                case ("close",):
                    answer(connection, sender.close)
                    return


if __name__ == "__main__":
    main()
