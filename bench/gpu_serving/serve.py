"""The child process: serves the model through vLLM's offline ``LLM``, asks, and writes down what the frontend saw.

    python -m bench.gpu_serving.serve SHAPE FOLDER RESULT TENSOR_PARALLEL IMAGES,... REPETITIONS

It runs in an environment of `recorder`. The first request of each size warms up, and its pixels are hashed.
"""

import sys
from itertools import count
from pathlib import Path

import msgspec
import numpy as np
import vllm
from PIL import Image
from vllm import LLM, SamplingParams

from bench.gpu_serving.report import Served
from bench.gpu_serving.shape import IMAGE_MARK, SHAPES
from shmtransport.demo_vllm.frontend import Frontend
from shmtransport.demo_vllm.messages import Measured
from shmtransport.demo_vllm.recorder import switch_digests


class Model:
    """The model, and images that it has not been asked about yet."""

    def __init__(self, shape: str, folder: str, tensor_parallel: int, most_images: int) -> None:
        options = SHAPES[shape].options(most_images)
        self._llm = LLM(model=folder, tensor_parallel_size=tensor_parallel, **options)
        self._seeds = count()
        self._frontend = Frontend(self._llm)
        self._frontend.await_join()

    def measure(self, number: int) -> Measured:
        """Asks about ``number`` images for one token."""
        images = [noise(next(self._seeds)) for _ in range(number)]
        text = "USER: " + IMAGE_MARK * number + "What is in this image? ASSISTANT:"
        sampling = SamplingParams(temperature=0, max_tokens=1, detokenize=False)
        self._frontend.begin()
        self._llm.generate([{"prompt": text, "multi_modal_data": {"image": images}}], sampling, use_tqdm=False)
        return self._frontend.measured(number)


def noise(seed: int) -> Image.Image:
    """An image of the size that the model takes, so that preprocessing does not resize it."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (896, 896, 3), np.uint8))


def main() -> None:
    """The process, from its start to its end."""
    shape, folder, result, tensor_parallel, numbers, repetitions = sys.argv[1:]
    sizes = [int(number) for number in numbers.split(",")]
    model = Model(shape, folder, int(tensor_parallel), max(sizes))
    warm_up, measured = [], []
    for size in sizes:
        switch_digests(True)
        warm_up.append(model.measure(size))
        switch_digests(False)
        measured += [model.measure(size) for _ in range(int(repetitions))]
        print(f"{size} images: {measured[-1].request_s:.2f} s", flush=True)
    Path(result).write_bytes(msgspec.json.encode(Served(vllm.__version__, warm_up, measured)))


if __name__ == "__main__":
    main()
