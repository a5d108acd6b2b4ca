"""The model: Gemma 3 in the shape of its 12B release, or a tiny one for a machine without a GPU.

    python -m bench.gpu_serving.shape gemma-3-12b|tiny FOLDER

Weights are made by vLLM (``load_format="dummy"``), so answers do not depend on the pixels: what arrived is compared by
digests of the pixels on the device.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.vllm.checkpoints import TEXT, make_gemma3

IMAGE_MARK: Final = "<start_of_image>"


@dataclass(frozen=True)
class Shape:
    """What the checkpoint is made of, beyond what is Gemma 3's own."""

    tokens_per_side: int
    """An image is as many tokens as this squared."""
    model: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def make(self, folder: Path) -> None:
        """Writes configuration, tokenizer and processor."""
        make_gemma3(folder, **self.model, tokens_per_side=self.tokens_per_side, dtype="bfloat16")

    def options(self, most_images: int) -> dict[str, Any]:
        """Of vLLM's ``LLM``, so that a request is one step and nothing comes from a cache of images."""
        tokens = 1024 + most_images * (self.tokens_per_side**2 + 8)
        return {
            "load_format": "dummy",
            "dtype": "bfloat16",
            "enforce_eager": True,
            "disable_custom_all_reduce": True,
            "skip_mm_profiling": True,
            "mm_processor_cache_gb": 0,
            "enable_prefix_caching": False,
            "max_model_len": tokens,
            "max_num_batched_tokens": tokens,
            "limit_mm_per_prompt": {"image": most_images},
            "gpu_memory_utilization": 0.5,  # the rest is for the encoder: all images of a request are one batch in it
            "seed": 0,
        }


SHAPES: Final = {
    "tiny": Shape(4),
    "gemma-3-12b": Shape(
        16,
        {
            "text": {
                **TEXT,
                "vocab_size": 262208,
                "hidden_size": 3840,
                "intermediate_size": 15360,
                "num_hidden_layers": 48,
                "num_attention_heads": 16,
                "num_key_value_heads": 8,
                "head_dim": 256,
                "query_pre_attn_scalar": 256,
                "sliding_window": 1024,
            },
            "vision": {
                "hidden_size": 1152,
                "intermediate_size": 4304,
                "num_hidden_layers": 27,
                "num_attention_heads": 16,
                "patch_size": 14,
            },
        },
    ),
}

if __name__ == "__main__":
    SHAPES[sys.argv[1]].make(Path(sys.argv[2]))
