"""An `AsyncLLM` that is started anew whenever one of its processes was killed.

    python -m tests.vllm.killing CHECKPOINT DESCRIPTOR

A program and not a test, told what to do as asynchronous.py. Times are those of the kernel's monotonic clock, which
all processes share.
"""

import asyncio
import sys
import time
from typing import Any

import psutil

from tests.vllm.asking import many, prompt
from tests.vllm.asynchronous import LONG, TIMEOUT_S, Frontend, obey

IMAGES = 50


class Engine:
    """One after the other, and one request of each."""

    def __init__(self, checkpoint: str) -> None:
        self._checkpoint = checkpoint
        self._frontend: Frontend | None = None
        self._request: asyncio.Task[dict[str, Any]] | None = None

    async def start(self) -> dict[str, Any]:
        """Which processes there are, and the ring's id."""
        self._frontend = Frontend(self._checkpoint)
        await self._frontend.joined()
        client: Any = self._frontend.llm.engine_core
        (engine,) = client.resources.engine_manager.processes
        (worker,) = (each for each in psutil.Process(engine.pid).children() if "Worker" in each.cmdline()[0])
        link = self._frontend.link
        return {"engine": engine.pid, "worker": worker.pid, "ring": link and link.consumer.ring.id}

    async def ask(self, moment: str) -> None:
        """Asks about many images; returns at ``moment``, while the request goes on."""
        assert self._frontend is not None
        came = asyncio.Event()
        name = self._frontend.name()
        if moment == "when it was sent":
            self._frontend.when_sent[name] = came.set
        self._request = asyncio.create_task(self._go_on(self._frontend, name, came))
        await asyncio.wait_for(came.wait(), TIMEOUT_S)

    async def _go_on(self, frontend: Frontend, name: str, came: asyncio.Event) -> dict[str, Any]:
        try:
            async for _ in frontend.llm.generate(prompt(many(IMAGES, shift=0)), LONG, name):
                came.set()
        except Exception as error:  # noqa: BLE001
            return {"error": type(error).__name__, "raised_s": time.monotonic()}
        return {"error": None}

    async def outcome(self) -> dict[str, Any]:
        """What became of the request."""
        assert self._request is not None
        return await asyncio.wait_for(self._request, TIMEOUT_S)

    async def shutdown(self) -> None:
        assert self._frontend is not None
        self._frontend.llm.shutdown()
        self._frontend = None


async def main() -> None:
    checkpoint, descriptor = sys.argv[1:]
    engine = Engine(checkpoint)
    await obey(
        descriptor,
        {"start": engine.start, "ask": engine.ask, "outcome": engine.outcome, "shutdown": engine.shutdown},
    )


if __name__ == "__main__":
    asyncio.run(main())
