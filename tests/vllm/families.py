"""The other families through the offline ``LLM``, as offline.py for LLaVA.

    python -m tests.vllm.families CHECKPOINT RESULT.json qwen2_5_vl|gemma3

Qwen2.5-VL is asked about images of different sizes and about videos, Gemma 3 about up to 100 images.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.vllm.asking import GEMMA, QWEN, Asker, ask_in_several_ways, many, photographs
from tests.vllm.watching import statistics_of

VIDEO = QWEN.replace("image", "video")
FRAMES = 16


def video(top: int) -> npt.NDArray[np.uint8]:
    """Frames of 256x256 pixels: a camera that moves over a photograph from ``top`` on."""
    photograph = np.asarray(photographs()[0])
    return np.stack([photograph[top + 4 * n : top + 4 * n + 256, 6 * n : 6 * n + 256] for n in range(FRAMES)])


def about_video(top: int) -> dict[str, Any]:
    read = {"total_num_frames": FRAMES, "frames_indices": list(range(FRAMES)), "fps": 2.0, "duration": FRAMES / 2.0}
    described = (video(top), {**read, "video_backend": "opencv", "do_sample_frames": False})
    return {"prompt": f"USER: {VIDEO}\nWhat happens? ASSISTANT:", "multi_modal_data": {"video": [described]}}


def ask_qwen(asker: Asker) -> None:
    images = photographs()
    asker.ask("one", images[:1])
    asker.ask("one_again", images[:1])
    asker.ask("one_replaced", images[1:2])
    asker.ask("ten", images[:10])
    asker.ask("ten_with_one_replaced", [*images[:9], images[11]])
    asker.chat("chat", many(10, shift=50))
    for name, top in (("video", 0), ("video_again", 0), ("video_replaced", 100)):
        asker.keep(name, [about_video(top)])
    asker.keep("videos_at_once", [about_video(top) for top in (20, 40, 60)])


def ask_gemma(asker: Asker) -> None:
    images = many(100, shift=100)
    asker.ask("one", images[:1])
    asker.ask("one_again", images[:1])
    asker.ask("one_replaced", images[1:2])
    asker.ask("ten", many(10, shift=20))
    asker.ask("fifty", many(50, shift=40))
    asker.ask("hundred", images)
    asker.ask("hundred_with_one_replaced", [*images[:70], photographs(30)[0], *images[71:]])
    asker.chat("chat", many(10, shift=50))


FAMILIES = {
    "qwen2_5_vl": (QWEN, ask_qwen, {"limit_mm_per_prompt": {"image": 16, "video": 2}}),
    "gemma3": (GEMMA, ask_gemma, {}),
}


def main() -> None:
    checkpoint, result, family = sys.argv[1:]
    mark, ask, settings = FAMILIES[family]
    asker = Asker(checkpoint, mark, **settings)
    asker.frontend.wait_for_the_engine_to_join()
    ask(asker)
    first = statistics_of(asker.frontend.ring)
    ask_in_several_ways(asker, [photographs(shift)[:2] for shift in range(61, 65)])
    Path(result).write_text(json.dumps({"first": first, **asker.written()}))


if __name__ == "__main__":
    main()
