"""One vLLM process for many checks: serves photographs through the offline ``LLM`` and writes down what happened.

    python offline.py CHECKPOINT RESULT.json SCENARIO

A program and not a test: vLLM starts its processes anew from it, and loading takes half a minute. With the plugin
off and on it sends the same requests in the same order.
"""

import hashlib
import json
import os
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import skimage.data
from PIL import Image
from vllm import LLM, SamplingParams
from vllm.plugins import load_general_plugins

PHOTOGRAPHS = (
    "astronaut.png chelsea.png coffee.png rocket.jpg motorcycle_left.png motorcycle_right.png hubble_deep_field.jpg "
    "ihc.png retina.jpg camera.png coins.png moon.png"
).split()
REPEATS = 5
FORGERIES = 6


def photographs(shift: int = 0) -> list[Image.Image]:
    """The photographs of scikit-image; ``shift`` pixels cut off make images that were never seen before."""
    folder = Path(skimage.data.__file__).parent
    opened = (Image.open(folder / name).convert("RGB") for name in PHOTOGRAPHS)
    return [image.crop((shift, shift, image.width, image.height)) for image in opened]


def prompt(images: list[Image.Image]) -> dict[str, Any]:
    text = "USER: " + "<image>" * len(images) + "\nWhat is in this image? ASSISTANT:"
    return {"prompt": text, "multi_modal_data": {"image": images}}


def answer(output: Any) -> dict[str, Any]:
    completion = output.outputs[0]
    return {
        "token_ids": list(completion.token_ids),
        "finish_reason": completion.finish_reason,
        "logprobs": [
            sorted([token, value.logprob.hex()] for token, value in step.items()) for step in completion.logprobs or []
        ],
    }


class Frontend:
    """The engine client of an ``LLM``, watched from outside."""

    def __init__(self, llm: LLM) -> None:
        self.client: Any = llm.llm_engine.engine_core
        self.link = vars(self.client).get("_shmtransport_link")
        self.requests: dict[str, dict[str, Any]] = {}
        self.wire_nbytes: list[int] = []
        self.staged_s = 0.0
        self.digests = True
        self._watch()

    def _watch(self) -> None:
        add, encode = self.client.add_request, self.client.encoder.encode

        def add_request(request: Any) -> None:
            features = [feature.data for feature in request.mm_features or ()]
            pixels = [item["pixel_values"].data for item in features if item is not None] if self.digests else []
            self.requests[request.request_id] = {
                "images": sum(item is not None for item in features),
                "digests": [hashlib.sha256(tensor.contiguous().numpy()).hexdigest() for tensor in pixels],
                "sent_s": time.monotonic(),
            }
            self.wire_nbytes.clear()
            add(request)

        def counted(message: Any) -> Any:
            parts = encode(message)
            self.wire_nbytes.append(sum(memoryview(part).nbytes for part in parts))
            return parts

        self.client.add_request = add_request
        self.client.encoder.encode = counted
        if self.link is not None:
            from shmtransport.adapters.vllm import staging

            stage = staging.stage

            def timed(*args: Any) -> None:
                begin = time.monotonic()
                stage(*args)
                self.staged_s = time.monotonic() - begin

            vars(staging)["stage"] = timed

    def ring_statistics(self) -> dict[str, Any] | None:
        if self.link is None or self.link.consumer.ring is None:
            return None
        found = self.link.consumer.ring.statistics()
        return {
            "shared": found.writer.shared,
            "writes": found.writer.writes,
            "inline": found.inline,
            "opened": sum(process.opened for process in found.processes),
            "segments": found.segments,
            "images": sum(request["images"] for request in self.requests.values()),
            "requests": sum(request["images"] > 0 for request in self.requests.values()),
        }

    def wait_for_the_engine_to_join(self) -> None:
        deadline = time.monotonic() + 30
        while not all(self.link.peers.values()):
            if time.monotonic() > deadline:
                raise TimeoutError("the engine did not join")
            time.sleep(0.01)


def same_answers(llm: LLM, short: bool) -> dict[str, Any]:
    images = photographs()
    one_by_one = SamplingParams(temperature=0, max_tokens=16, logprobs=5)

    def ask(*prompts: dict[str, Any]) -> list[dict[str, Any]]:
        return [answer(output) for output in llm.generate(list(prompts), one_by_one, use_tqdm=False)]

    if short:
        return {"one": ask(prompt(images[:1])), "one_again": ask(prompt(images[:1]))}
    return {
        "one": ask(prompt(images[:1])),
        "one_again": ask(prompt(images[:1])),
        "ten": ask(prompt(images[:10])),
        "one_replaced": ask(prompt(images[1:2])),
        "ten_with_one_replaced": ask(prompt([*images[:9], images[11]])),
        "batch": ask(*(prompt(photographs(shift)[:2]) for shift in range(1, 5))),
        "text": ask({"prompt": "USER: hello ASSISTANT:"}),
    }


def measure(llm: LLM, frontend: Frontend) -> dict[str, Any]:
    """Medians over requests of ten images that were never seen before."""
    frontend.digests = False
    rows = []
    for repeat in range(REPEATS):
        known = set(frontend.requests)
        llm.generate(
            [prompt(photographs(10 + repeat)[:10])], SamplingParams(temperature=0, max_tokens=1), use_tqdm=False
        )
        (request_id,) = set(frontend.requests) - known
        rows.append((request_id, frontend.wire_nbytes[0], frontend.staged_s))
    return {
        "rows": rows,
        "hop1_wire_nbytes": statistics.median(row[1] for row in rows),
        "staged_s": statistics.median(row[2] for row in rows),
    }


def forged(wire: bytes) -> Iterator[tuple[str, bytes]]:
    """Handles that must not be served, each with a name."""
    import msgspec

    from shmtransport import Handle

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


def forge(llm: LLM, frontend: Frontend) -> dict[str, Any]:
    """Each kind of forged handle in a request of its own, and a genuine request after each."""
    consumer = frontend.link.consumer
    share = consumer._share
    sampling = SamplingParams(temperature=0, max_tokens=4)

    def ask(images: list[Image.Image]) -> dict[str, Any]:
        return answer(llm.generate([prompt(images)], sampling, use_tqdm=False)[0])

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
    checkpoint, result, scenario = sys.argv[1:]
    if scenario == "alone":  # what vLLM starts from here on is without the plugin
        load_general_plugins()
        os.environ["SHMTRANSPORT_ENABLE"] = "0"
    llm = LLM(
        model=checkpoint,
        enforce_eager=True,
        dtype="float32",
        max_model_len=4096,
        skip_mm_profiling=True,
        limit_mm_per_prompt={"image": 64},
        seed=0,
    )
    frontend = Frontend(llm)
    if scenario in ("on", "full"):
        frontend.wait_for_the_engine_to_join()
    written: dict[str, Any] = {"answers": same_answers(llm, short=scenario == "alone")}
    if scenario in ("off", "on"):
        written["measured"] = measure(llm, frontend)
    written["ring"] = frontend.ring_statistics()
    if scenario == "on":
        written["forged"] = forge(llm, frontend)
    written["requests"] = frontend.requests
    Path(result).write_text(json.dumps(written))


if __name__ == "__main__":
    main()
