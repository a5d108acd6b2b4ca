"""The engine of docs/build-an-engine.md, where something goes wrong: a worker is killed, a client hangs up."""

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable

import psutil
import pytest
import torch
import zmq.asyncio

from examples.engine.engine import Engine, Request, Worker, model
from shmtransport import PeerDeadError, Ring
from tests.support import running_python, segment_names, stop, wait_until

FRONTEND = """
import asyncio, torch, zmq.asyncio
from examples.engine.engine import Engine, Request
from shmtransport import Ring

async def main():
    with zmq.asyncio.Context() as context, Ring.create("64MiB") as ring:
        engine = Engine(context, ring)
        await asyncio.gather(*(engine.ask(Request("?", [torch.rand(3, 256, 256)])) for _ in range(8)))
        print(*(worker.process.pid for worker in engine._free._queue), flush=True)
        await asyncio.sleep(60)

asyncio.run(main())
"""


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
                await engine.close()

    with Ring.create("64MiB") as ring:
        asyncio.run(talk_and_close())
        wait_until(lambda: ring.reap() == 0 and ring.statistics().blocks == 0)


async def until_shared(ring: Ring, before: int) -> None:
    """Handles are on their way; by now the worker has joined."""
    while ring.statistics().writer.shared == before:  # noqa: ASYNC110  # no event: a thread of the channel shares
        await asyncio.sleep(0.001)


async def free_worker(engine: Engine) -> tuple[Worker, int]:
    """With its process's id."""
    worker = await engine._free.get()
    engine._free.put_nowait(worker)
    assert worker.process.pid is not None
    return worker, worker.process.pid


async def check_replaced(engine: Engine, killed: int) -> None:
    """Another process answers than the one that had this id."""
    asked = request()
    assert await engine.ask(asked) == model(asked)
    assert (await free_worker(engine))[1] != killed


@pytest.mark.timeout(120)
def test_a_killed_worker_fails_its_request_and_is_replaced() -> None:
    async def talk(engine: Engine, ring: Ring) -> None:
        first = request()
        assert await engine.ask(first) == model(first)
        _, pid = await free_worker(engine)
        stop(pid)  # so that it cannot answer before it is killed
        before = ring.statistics().writer.shared
        asked = asyncio.create_task(engine.ask(request()))
        await until_shared(ring, before)
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(PeerDeadError, match="exit code -9"):
            await asked
        await check_replaced(engine, pid)

    run(talk, workers=1)


@pytest.mark.timeout(120)
def test_a_worker_that_died_while_it_was_idle_is_replaced_and_nobody_notices() -> None:
    async def talk(engine: Engine, ring: Ring) -> None:
        worker, pid = await free_worker(engine)
        worker.process.kill()
        worker.process.join()
        await check_replaced(engine, pid)

    run(talk, workers=1)


@pytest.mark.timeout(120)
def test_a_worker_that_dies_before_it_connects_fails_its_request_at_once() -> None:
    async def talk(engine: Engine, ring: Ring) -> None:
        _, pid = await free_worker(engine)
        stop(pid)  # it cannot have connected: it imports torch
        asked = asyncio.create_task(engine.ask(request()))
        await asyncio.sleep(0.1)  # the send waits for a peer
        began = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(PeerDeadError, match="exit code -9"):
            await asked
        assert time.monotonic() - began < 10

    run(talk, workers=1)


@pytest.mark.timeout(120)
def test_workers_end_when_the_frontend_is_killed() -> None:
    """And the last one takes the ring with it."""
    before = segment_names()
    with running_python(FRONTEND) as frontend:
        assert frontend.stdout is not None
        workers = [psutil.Process(int(pid)) for pid in frontend.stdout.readline().split()]
        assert len(workers) == 2
        frontend.kill()
        wait_until(lambda: not any(worker.is_running() for worker in workers), timeout_s=20)
    wait_until(lambda: segment_names() <= before)


@pytest.mark.timeout(120)
def test_the_answer_to_who_has_hung_up_is_not_taken_for_another_one() -> None:
    async def talk(engine: Engine, ring: Ring) -> None:
        _, pid = await free_worker(engine)
        warm = request()
        assert await engine.ask(warm) == model(warm)
        stop(pid)
        before = ring.statistics().writer.shared
        asked = asyncio.create_task(engine.ask(request()))
        await until_shared(ring, before)
        asked.cancel()
        os.kill(pid, signal.SIGCONT)
        last = request()
        assert await engine.ask(last) == model(last)

    run(talk, workers=1)
