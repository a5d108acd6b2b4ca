"""What the offline programs ask vLLM, and the form in which they keep the answers: equal means bit by bit.

The same questions in the same order with the plugin off and on, because vLLM's prefix cache remembers.
"""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import skimage.data
from PIL import Image
from vllm import LLM, SamplingParams

from tests.vllm.watching import Frontend

PHOTOGRAPHS = (
    "astronaut.png chelsea.png coffee.png rocket.jpg motorcycle_left.png motorcycle_right.png hubble_deep_field.jpg "
    "ihc.png retina.jpg camera.png coins.png moon.png"
).split()
LLAVA, QWEN, GEMMA = "<image>", "<|vision_start|><|image_pad|><|vision_end|>", "<start_of_image>"
"""How the families' prompts say that there is an image."""

GREEDY = SamplingParams(temperature=0, max_tokens=16, logprobs=5)


def photographs(shift: int = 0) -> list[Image.Image]:
    """The photographs of scikit-image; ``shift`` pixels cut off make images that were never seen before."""
    folder = Path(skimage.data.__file__).parent
    opened = (Image.open(folder / name).convert("RGB") for name in PHOTOGRAPHS)
    return [image.crop((shift, shift, image.width, image.height)) for image in opened]


def many(number: int, shift: int) -> list[Image.Image]:
    """``number`` photographs, no two the same, cut from ``shift`` pixels on."""
    turns = -(-number // len(PHOTOGRAPHS))
    return [image for turn in range(turns) for image in photographs(shift + turn)][:number]


def prompt(images: Sequence[Image.Image], mark: str = LLAVA) -> dict[str, Any]:
    text = f"USER: {mark * len(images)} What is in this image? ASSISTANT:"  # of a line break vLLM's Gemma 3 loses count
    return {"prompt": text, "multi_modal_data": {"image": list(images)}}


def answer(output: Any, sample: int = 0) -> dict[str, Any]:
    completion = output.outputs[sample]
    return {
        "token_ids": list(completion.token_ids),
        "finish_reason": completion.finish_reason,
        "logprobs": [
            sorted([token, value.logprob.hex()] for token, value in step.items()) for step in completion.logprobs or []
        ],
    }


def prompt_logprobs(output: Any) -> str:
    """SHA-256 over the logprobs of all tokens of the prompt."""
    steps = [
        sorted([token, value.logprob.hex()] for token, value in step.items()) for step in output.prompt_logprobs if step
    ]
    return hashlib.sha256(repr(steps).encode()).hexdigest()


class Asker:
    """One ``LLM``: keeps under each question's name the answers, and which requests it was."""

    def __init__(self, checkpoint: str, mark: str = LLAVA, **settings: Any) -> None:
        self.llm = LLM(
            model=checkpoint,
            enforce_eager=True,
            dtype="float32",
            max_model_len=8192,
            skip_mm_profiling=True,
            seed=0,
            **{"max_num_batched_tokens": 1024, "limit_mm_per_prompt": {"image": 128}, **settings},
        )
        self.mark = mark
        self.frontend = Frontend(self.llm)
        self.answers: dict[str, list[dict[str, Any]]] = {}
        self.asked: dict[str, list[str]] = {}

    def ask(self, name: str, *questions: Sequence[Image.Image]) -> None:
        """Questions about images, all at once."""
        self.keep(name, [prompt(images, self.mark) for images in questions])

    def keep(self, name: str, prompts: list[Any], sampling: SamplingParams = GREEDY) -> list[Any]:
        """Any prompts, all at once; what ``LLM.generate`` answered."""
        return self.run(name, lambda: self.llm.generate(prompts, sampling, use_tqdm=False))

    def chat(self, name: str, images: Sequence[Image.Image]) -> None:
        """As `ask`, by ``LLM.chat``."""
        parts: list[Any] = [{"type": "image_pil", "image_pil": image} for image in images]
        parts.append({"type": "text", "text": "What is in this image?"})
        message: Any = {"role": "user", "content": parts}
        self.run(name, lambda: self.llm.chat([message], GREEDY, use_tqdm=False))

    def run(self, name: str, call: Callable[[], Sequence[Any]]) -> list[Any]:
        """Any call of the ``LLM`` that gives requests and answers outputs."""
        with self.frontend.noting() as requests:
            outputs = list(call())
        self.note(name, outputs, requests)
        return outputs

    def note(self, name: str, outputs: Sequence[Any], requests: list[str]) -> None:
        self.answers[name] = [answer(output, n) for output in outputs for n in range(len(output.outputs))]
        self.asked[name] = requests

    def forget(self) -> None:
        """Empties vLLM's caches: the next question is computed, and its images sent, as if for the first time."""
        self.llm.reset_mm_cache()
        self.llm.llm_engine.reset_encoder_cache()
        if not self.llm.reset_prefix_cache():
            raise RuntimeError("vLLM did not reset its prefix cache")

    def written(self) -> dict[str, Any]:
        """What the tests look at."""
        return {"answers": self.answers, "asked": self.asked, **self.frontend.written()}


def ask_the_same(asker: Asker) -> None:
    """What every scenario of LLaVA asks first."""
    images = photographs()
    asker.ask("one", images[:1])
    asker.ask("one_again", images[:1])
    asker.ask("ten", images[:10])
    asker.ask("one_replaced", images[1:2])
    asker.ask("ten_with_one_replaced", [*images[:9], images[11]])
    asker.ask("batch", *(photographs(shift)[:2] for shift in range(1, 5)))
    asker.ask("fifty", many(50, shift=100))
    asker.keep("text", [{"prompt": "USER: hello ASSISTANT:"}])


def ask_together(asker: Asker, name: str, *questions: Sequence[Image.Image]) -> None:
    """Questions that all wait when scheduling begins: always computed in the same batches."""
    asker.forget()
    asker.llm.sleep(level=0)
    with asker.frontend.noting() as requests:
        asker.llm.enqueue([prompt(images, asker.mark) for images in questions], GREEDY, use_tqdm=False)
    asker.llm.wake_up(tags=["scheduling"])
    outputs = asker.llm.wait_for_completion(use_tqdm=False)
    asker.note(name, sorted(outputs, key=lambda output: int(output.request_id)), requests)


def ask_in_several_ways(asker: Asker, questions: Sequence[Sequence[Image.Image]]) -> None:
    """The same questions alone, at once, at once in reverse order, and together: computed in other batches."""
    asker.forget()
    for number, images in enumerate(questions):
        asker.ask(f"alone_{number}", images)
    asker.forget()
    asker.ask("at_once", *questions)
    asker.forget()
    asker.ask("reversed", *reversed(questions))
    ask_together(asker, "together", *questions)
