"""The child process: serves the checkpoint through vLLM's offline ``LLM`` and reports what it saw.

Started as ``python -m shmtransport.demo_vllm.serve CHECKPOINT REPORT N,...``, once with the plugin off and once
with it on; it sends the same requests in the same order. Its standard input is a pipe on which nothing is ever
written: it ends when the parent does, however that ends, and so does this process, in good order.
"""

import os
import signal
import sys
import threading
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import vllm
from PIL import Image
from vllm import LLM, SamplingParams

from shmtransport.demo_vllm.answers import Answer, Compared
from shmtransport.demo_vllm.frontend import Frontend
from shmtransport.demo_vllm.messages import Measured, Served
from shmtransport.demo_vllm.photographs import image
from shmtransport.demo_vllm.settings import COMPARED, IMAGE_TOKENS, REPETITIONS, TEXT_TOKENS, WARM_UP, Settings


def prompt(images: list[Image.Image]) -> dict[str, Any]:
    """One question about all of them."""
    text = "USER: " + "<image>" * len(images) + "\nWhat is in this image? ASSISTANT:"
    return {"prompt": text, "multi_modal_data": {"image": images}}


class Model:
    """The model, and photographs that it has not been asked about yet."""

    def __init__(self, checkpoint: Path, settings: Settings) -> None:
        self._llm = LLM(
            model=str(checkpoint),
            dtype="float32",
            enforce_eager=True,
            max_model_len=settings.most_images * IMAGE_TOKENS + TEXT_TOKENS,
            limit_mm_per_prompt={"image": settings.most_images},
            skip_mm_profiling=True,
            seed=0,
        )
        self._numbers = count()
        self.frontend = Frontend(self._llm)
        self.frontend.await_join()

    def unseen(self, number: int) -> list[Image.Image]:
        """The next ``number`` photographs."""
        return [image(next(self._numbers)) for _ in range(number)]

    def compare(self, number: int) -> Compared:
        """Asks about ``number`` photographs, and about the same with the last one replaced."""
        *kept, last, other = self.unseen(number + 1)
        greedy = SamplingParams(temperature=0, max_tokens=16, logprobs=5)
        one, replaced = (self._ask([*kept, end], greedy) for end in (last, other))
        return Compared(one, replaced)

    def measure(self, number: int) -> Measured:
        """Asks about ``number`` photographs for one token."""
        images = self.unseen(number)
        self.frontend.begin()
        self._ask(images, SamplingParams(temperature=0, max_tokens=1))
        return self.frontend.measured(number)

    def _ask(self, images: list[Image.Image], sampling: SamplingParams) -> Answer:
        (output,) = self._llm.generate([prompt(images)], sampling, use_tqdm=False)
        return Answer.of(output)


def end_with_the_parent() -> None:
    """Waits for the end of standard input, and then ends this process as SIGTERM does."""
    while os.read(sys.stdin.fileno(), 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    """The process, from its start to its end."""
    checkpoint, report, images = sys.argv[1:]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # vLLM ends its processes on the way
    threading.Thread(target=end_with_the_parent, daemon=True).start()
    settings = Settings(images=tuple(int(number) for number in images.split(",")))
    model = Model(Path(checkpoint), settings)
    compared = {number: model.compare(number) for number in COMPARED}
    rows = [[model.measure(number) for _ in range(WARM_UP + REPETITIONS)][WARM_UP:] for number in settings.images]
    served = Served(vllm.__version__, compared, [measured for row in rows for measured in row])
    Path(report).write_bytes(msgspec.json.encode(served))


if __name__ == "__main__":
    main()
