"""An `AsyncLLM` for many checks: requests at once, an abort, how late the event loop is.

    python -m tests.vllm.asynchronous CHECKPOINT DESCRIPTOR

A program and not a test, as offline.py; it does what it is told through a socket (`programs.Told`). With the
plugin off and on the same requests are sent. vLLM's caches are off, so that every request sends all its pixels
and nobody holds a block for longer than its request.
"""

import asyncio
import json
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec
from PIL import Image
from vllm import SamplingParams
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.v1.engine.async_llm import AsyncLLM

from tests.vllm.asking import answer, many, photographs, prompt

SIZES = (10, 2, 3, 4, 2, 3, 4, 5)
"""Images of the requests that are asked at once; the first is the one that is aborted."""
LAG_IMAGES = 50
TICK_S = 0.001
TIMEOUT_S = 30.0
# So many tokens that requests whose images are processed one after the other are still answered together.
SAMPLING = SamplingParams(temperature=0, max_tokens=96, ignore_eos=True, logprobs=5)
LONG = SamplingParams(temperature=0, max_tokens=512, ignore_eos=True)


class Frontend:
    """An `AsyncLLM`, watched from outside."""

    def __init__(self, checkpoint: str) -> None:
        self.llm = AsyncLLM.from_engine_args(
            AsyncEngineArgs(
                model=checkpoint,
                enforce_eager=True,
                dtype="float32",
                max_model_len=4096,
                skip_mm_profiling=True,
                limit_mm_per_prompt={"image": 64},
                mm_processor_cache_gb=0,
                enable_prefix_caching=False,
                seed=0,
            )
        )
        self.link = vars(self.llm.engine_core).get("_shmtransport_link")
        self.when_processing: dict[str, Callable[[], object]] = {}
        self.when_sent: dict[str, Callable[[], object]] = {}
        self._names = 0
        self._watch()

    def _watch(self) -> None:
        client: Any = self.llm.engine_core
        prepare: Any = self.llm.input_processor
        process, add = prepare.process_inputs_async, client.add_request_async

        def process_inputs(name: str, *args: Any, **kwargs: Any) -> Any:
            asyncio.get_running_loop().call_soon(self.when_processing.pop(name, lambda: None))
            return process(name, *args, **kwargs)

        async def add_request(request: Any) -> None:
            await add(request)
            self.when_sent.pop(request.external_req_id, lambda: None)()

        prepare.process_inputs_async, client.add_request_async = process_inputs, add_request

    def name(self) -> str:
        """Of a request that was not made yet."""
        self._names += 1
        return f"request {self._names}"

    async def ask(
        self, images: list[Image.Image], sampling: SamplingParams = SAMPLING, name: str | None = None
    ) -> dict[str, Any]:
        """Its answer, and when the first and the last token of it came."""
        began_s, last = 0.0, None
        async for output in self.llm.generate(prompt(images), sampling, name or self.name()):
            began_s = began_s or time.monotonic()
            last = output
        return answer(last) | {"began_s": began_s, "ended_s": time.monotonic()}

    def ring(self) -> Any:
        """The ring's statistics."""
        return self.link.consumer.ring.statistics()

    async def joined(self) -> None:
        """Returns as soon as the engine may be sent handles."""
        if self.link is not None:
            await until(lambda: all(self.link.peers.values()) and self.link.consumer.ring is not None)


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(condition)
        await asyncio.sleep(0.01)


def requests() -> list[list[Image.Image]]:
    """The images of eight requests; no image is in two of them."""
    return [photographs(shift)[:size] for shift, size in enumerate(SIZES)]


async def one_at_a_time(frontend: Frontend) -> Any:
    return [await frontend.ask(images) for images in requests()]


async def at_once(frontend: Frontend) -> Any:
    return await asyncio.gather(*map(frontend.ask, requests()))


async def at_once_and_abort(frontend: Frontend, moment: str) -> Any:
    """The first request, which would be answered at length, is taken back at ``moment``."""
    aborted_images, *others = requests()
    name = frontend.name()
    generated = 0

    async def be_aborted() -> None:
        nonlocal generated
        async for output in frontend.llm.generate(prompt(aborted_images), LONG, name):
            generated = len(output.outputs[0].token_ids)
            if moment == "after its first token":
                await frontend.llm.abort(name)

    aborted = asyncio.create_task(be_aborted())
    if moment == "while its images are processed":
        frontend.when_processing[name] = aborted.cancel
    elif moment == "when it was sent":
        frontend.when_sent[name] = aborted.cancel
    answers = await asyncio.gather(*map(frontend.ask, others))
    await asyncio.wait([aborted], timeout=TIMEOUT_S)
    return {"answers": answers, "ended": aborted.done(), "generated": generated}


async def lag(frontend: Frontend) -> Any:
    """How late a ticker on the event loop is, each time, until a request of many images was sent. Seconds."""
    images, name, sent = many(LAG_IMAGES, shift=0), frontend.name(), asyncio.Event()
    late: list[float] = []

    async def tick() -> None:
        while not sent.is_set():
            due_s = time.perf_counter() + TICK_S
            await asyncio.sleep(TICK_S)
            late.append(time.perf_counter() - due_s)

    frontend.when_sent[name] = sent.set
    ticker = asyncio.create_task(tick())
    await frontend.ask(images, SamplingParams(temperature=0, max_tokens=1), name)
    await ticker
    return late


async def ring(frontend: Frontend) -> Any:
    """The statistics when nobody holds a block any more; None without a ring."""
    if frontend.link is None:
        return None
    await frontend.ask([])  # workers hold a request's tensors until they are told of the next
    await until(lambda: frontend.ring().blocks == 0)
    return msgspec.to_builtins(frontend.ring())


async def obey(descriptor: str, commands: Mapping[str, Callable[..., Awaitable[Any]]]) -> None:
    """Does what comes through the socket, until nothing comes any more."""
    line = socket.socket(fileno=int(descriptor))
    line.set_inheritable(False)
    reader, writer = await asyncio.open_connection(sock=line)
    while told := await reader.readline():
        what, *arguments = json.loads(told)
        writer.write(json.dumps(await commands[what](*arguments)).encode() + b"\n")
        await writer.drain()
    writer.close()


async def main() -> None:
    checkpoint, descriptor = sys.argv[1:]
    frontend = Frontend(checkpoint)
    await frontend.joined()

    def command(function: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        return lambda *arguments: function(frontend, *arguments)

    await obey(
        descriptor, {each.__name__: command(each) for each in (one_at_a_time, at_once, at_once_and_abort, lag, ring)}
    )
    frontend.llm.shutdown()


if __name__ == "__main__":
    asyncio.run(main())
