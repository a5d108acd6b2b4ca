"""The engine of docs/build-an-engine.md, where something goes wrong: a worker is killed, a client hangs up."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable

import pytest
import torch
import zmq.asyncio

from examples.engine.engine import Engine, Request, Worker, model
from shmtransport import PeerDeadError, Ring
from tests.support import wait_until


def request() -> Request:
    return Request("?", [torch.rand(3, 256, 256), torch.rand(3, 256, 256)])


def run(talk: Callable[[Engine, Ring], Awaitable[None]], *, workers: int) -> None:
    """An engine for ``talk``; when all is over nobody holds a block."""

    async def talk_and_close() -> None:
        with zmq.asyncio.Context() as context:
            engine = Engine(context, ring, workers)
            try:
                await talk(engine, ring)
            finally:
                engine.close()

    with Ring.create("64MiB") as ring:
        asyncio.run(talk_and_close())
        wait_until(lambda: ring.reap() == 0 and ring.statistics().blocks == 0)


async def until_shared(ring: Ring, before: int) -> None:
    """Handles are on their way; by now the worker has joined."""
    while ring.statistics().writer.shared == before:  # noqa: ASYNC110  # no event: a thread of the channel shares
        await asyncio.sleep(0.001)


async def free_worker(engine: Engine) -> Worker:
    worker = await engine._free.get()
    engine._free.put_nowait(worker)
    return worker


@pytest.mark.timeout(120)
def test_a_killed_worker_fails_its_request_and_is_replaced() -> None:
    async def talk(engine: Engine, ring: Ring) -> None:
        first = request()
        assert await engine.ask(first) == model(first)
        worker = await free_worker(engine)
        assert worker.process.pid is not None
        os.kill(worker.process.pid, signal.SIGSTOP)  # so that it cannot answer before it is killed
        before = ring.statistics().writer.shared
        asked = asyncio.create_task(engine.ask(request()))
        await until_shared(ring, before)
        os.kill(worker.process.pid, signal.SIGKILL)
        with pytest.raises(PeerDeadError, match="exit code -9"):
            await asked
        last = request()
        assert await engine.ask(last) == model(last)
        assert (await free_worker(engine)).process.pid != worker.process.pid

    run(talk, workers=1)


@pytest.mark.timeout(120)
def test_the_answer_to_who_has_hung_up_is_not_taken_for_another_one() -> None:
    async def talk(engine: Engine, ring: Ring) -> None:
        worker = await free_worker(engine)
        assert worker.process.pid is not None
        warm = request()
        assert await engine.ask(warm) == model(warm)
        os.kill(worker.process.pid, signal.SIGSTOP)
        before = ring.statistics().writer.shared
        asked = asyncio.create_task(engine.ask(request()))
        await until_shared(ring, before)
        asked.cancel()
        os.kill(worker.process.pid, signal.SIGCONT)
        last = request()
        assert await engine.ask(last) == model(last)

    run(talk, workers=1)
