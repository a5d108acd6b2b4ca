"""One vLLM process for many checks: serves photographs through the offline ``LLM`` and writes down what happened.

    python -m tests.vllm.offline CHECKPOINT RESULT.json

A program and not a test: vLLM starts its processes anew from it, and loading takes half a minute. With the plugin
off and on it sends the same requests in the same order.
"""

import json
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import torch
from PIL import Image
from vllm import SamplingParams

from shmtransport import Handle
from tests.vllm.asking import (
    Asker,
    answer,
    ask_in_several_ways,
    ask_the_same,
    many,
    photographs,
    prompt,
    prompt_logprobs,
)
from tests.vllm.watching import statistics_of

REPEATS = 5
FORGERIES = 6
EMBEDDED_TOKENS = 256
HIDDEN_SIZE = 128
RETURNS = 8
"""Requests for prompt logprobs: the first outputs come before the client has joined the engine's ring."""


def ask_more(asker: Asker) -> dict[str, Any]:
    """What only this program asks, and what each question wrote into the ring."""
    asker.chat("chat", many(10, shift=50))

    before = statistics_of(asker.frontend.ring)
    three = SamplingParams(temperature=1, n=3, seed=7, max_tokens=8, logprobs=5)
    asker.keep("three_samples", [prompt(photographs(51)[:2])], three)
    samples = before, statistics_of(asker.frontend.ring)

    for number in range(2):
        generator = torch.Generator().manual_seed(number)
        embeds = torch.randn(EMBEDDED_TOKENS, HIDDEN_SIZE, generator=generator)
        asker.keep(f"embeds_{number}", [{"prompt_embeds": embeds}])

    scoring = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=64)
    scored = [
        prompt_logprobs(asker.keep(f"scored_{number}", [prompt(photographs(52 + number)[:5])], scoring)[0])
        for number in range(RETURNS)
    ]

    asker.ask("before_sleep", photographs(60)[:3])
    asker.llm.sleep(level=1)
    emptied = statistics_of(asker.frontend.ring)
    asker.llm.wake_up()
    asker.ask("after_sleep", photographs(60)[:3])

    ask_in_several_ways(asker, [photographs(shift)[:2] for shift in range(61, 65)])
    return {"samples": samples, "scored": scored, "emptied": emptied}


def measure(asker: Asker) -> dict[str, Any]:
    """Medians over requests of ten images that were never seen before."""
    asker.frontend.digests = False
    rows = []
    for repeat in range(REPEATS):
        name = f"measured_{repeat}"
        asker.keep(name, [prompt(photographs(10 + repeat)[:10])], SamplingParams(temperature=0, max_tokens=1))
        (request_id,) = asker.asked[name]
        rows.append((request_id, asker.frontend.requests[request_id]["wire_nbytes"], asker.frontend.staged_s[-1]))
    return {
        "rows": rows,
        "hop1_wire_nbytes": statistics.median(row[1] for row in rows),
        "staged_s": statistics.median(row[2] for row in rows),
    }


def forged(wire: bytes) -> Iterator[tuple[str, bytes]]:
    """Handles that must not be served, each with a name."""
    genuine = Handle.from_bytes(wire)
    yield "of a ring nobody knows", bytes(msgspec.structs.replace(genuine, ring_id=bytes(16)))
    yield "of an older generation", bytes(msgspec.structs.replace(genuine, generation=genuine.generation + 2))
    yield "beyond its block", bytes(msgspec.structs.replace(genuine, offset=1 << 40))
    yield "of another shape", bytes(msgspec.structs.replace(genuine, shape=(genuine.shape[0], 1, 1)))
    yield "damaged", wire[:-1] + bytes([wire[-1] ^ 1])
    yield "no handle at all", b"not a handle"


class Forged:
    """Passes for a handle where the consumer makes bytes of it."""

    def __init__(self, wire: bytes) -> None:
        self._wire = wire

    def __bytes__(self) -> bytes:
        return self._wire


def forge(asker: Asker) -> dict[str, Any]:
    """Each kind of forged handle in a request of its own, and a genuine request after each."""
    consumer = asker.frontend.link.consumer
    share = consumer._share
    sampling = SamplingParams(temperature=0, max_tokens=4)

    def ask(images: list[Image.Image]) -> dict[str, Any]:
        return answer(asker.llm.generate([prompt(images)], sampling, use_tqdm=False)[0])

    def ask_with(number: int) -> tuple[str, dict[str, Any]]:
        images = photographs(30 + number)
        named: list[str] = []

        def forging(*args: Any) -> Forged:
            name, wire = list(forged(bytes(share(*args))))[number]
            named.append(name)
            return Forged(wire)

        consumer._share = forging
        refused = ask(images[:1])
        consumer._share = share
        return named[0], {"refused": refused, "served": ask(images[1:2])}

    return dict(ask_with(number) for number in range(FORGERIES))


def main() -> None:
    checkpoint, result = sys.argv[1:]
    asker = Asker(checkpoint, enable_prompt_embeds=True, max_logprobs=64)
    asker.frontend.wait_for_the_engine_to_join()
    ask_the_same(asker)
    first = statistics_of(asker.frontend.ring)
    more = ask_more(asker)
    written = {"first": first, **more, "measured": measure(asker), **asker.written()}
    if asker.frontend.link is not None:
        written["forged"] = forge(asker)
    Path(result).write_text(json.dumps(written))


if __name__ == "__main__":
    main()
