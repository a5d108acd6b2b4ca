"""Makes checkpoints of the other two families, as `shmtransport.demo_vllm.checkpoint` makes LLaVA's.

    python -m tests.vllm.checkpoints qwen2_5_vl|gemma3 FOLDER

Seeded weights of unit gain in vLLM's own model classes: the answer depends on the pixels. Of Qwen2.5-VL images keep
their shape, up to 672x672 pixels; of Gemma 3 each becomes 896x896 pixels and only 16 tokens.
"""

import sys
from collections.abc import Mapping
from pathlib import Path

from transformers import (
    Gemma3Config,
    Gemma3ImageProcessor,
    Gemma3Processor,
    Gemma3TextConfig,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    SiglipVisionConfig,
)
from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

from shmtransport.demo_vllm.checkpoint import MARKS, TEMPLATE, make_tokenizer, save_weights

QWEN_IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
QWEN_MARKS = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>", "<|vision_pad|>"]
QWEN_PIXELS = {"shortest_edge": 56 * 56, "longest_edge": 672 * 672}
GEMMA_MARKS = {"image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"}
TEXT = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 131072,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 3,
}


def tokenizer_with(marks: list[str], **named: object) -> PreTrainedTokenizerFast:
    """LLaVA's tokenizer and more special tokens; ``named``: what the family's processor calls some of them."""
    backend = make_tokenizer().backend_tokenizer
    backend.add_special_tokens(marks)
    return PreTrainedTokenizerFast(tokenizer_object=backend, **MARKS, **named)


def vocabulary(tokenizer: PreTrainedTokenizerFast) -> dict[str, int]:
    return {"vocab_size": -(-(len(tokenizer) + 1) // 64) * 64}


def make_qwen2_5_vl(folder: Path) -> None:
    tokenizer = tokenizer_with(QWEN_MARKS, image_token="<|image_pad|>", video_token="<|video_pad|>")
    Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(size=QWEN_PIXELS),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(size=QWEN_PIXELS),
        chat_template=TEMPLATE.replace("<image>\n", QWEN_IMAGE),
    ).save_pretrained(folder)
    numbers = {mark: tokenizer.convert_tokens_to_ids(mark) for mark in QWEN_MARKS}
    config = Qwen2_5_VLConfig(
        text_config={
            **TEXT,
            **vocabulary(tokenizer),
            "tie_word_embeddings": False,
            "rope_parameters": {"rope_type": "default", "mrope_section": [8, 12, 12], "rope_theta": 1e6},
        },
        vision_config={
            "depth": 2,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_heads": 2,
            "out_hidden_size": TEXT["hidden_size"],
            "fullatt_block_indexes": [1],
            "window_size": 112,
            "patch_size": 14,
            "spatial_merge_size": 2,
        },
        image_token_id=numbers["<|image_pad|>"],
        video_token_id=numbers["<|video_pad|>"],
        vision_start_token_id=numbers["<|vision_start|>"],
        vision_end_token_id=numbers["<|vision_end|>"],
    )
    config.architectures, config.dtype = ["Qwen2_5_VLForConditionalGeneration"], "float32"
    config.save_pretrained(folder)


GEMMA_TEXT = {**TEXT, "head_dim": 64, "sliding_window": 4096, "query_pre_attn_scalar": 64}
GEMMA_VISION = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "patch_size": 56,
}


def make_gemma3(
    folder: Path,
    text: Mapping[str, object] = GEMMA_TEXT,
    vision: Mapping[str, object] = GEMMA_VISION,
    tokens_per_side: int = 4,
    dtype: str = "float32",
) -> None:
    """Without weights. The vocabulary is the tokenizer's, unless ``text`` says its size."""
    newlines = ["\n" * number for number in (1, 2, 3, 4)]  # vLLM looks these up as whole tokens
    tokenizer = tokenizer_with([*GEMMA_MARKS.values(), *newlines], extra_special_tokens=GEMMA_MARKS)
    tokens = tokens_per_side**2
    Gemma3Processor(
        image_processor=Gemma3ImageProcessor(size={"height": 896, "width": 896}, image_seq_length=tokens),
        tokenizer=tokenizer,
        image_seq_length=tokens,
        chat_template=TEMPLATE.replace("<image>\n", GEMMA_MARKS["boi_token"]),
    ).save_pretrained(folder)
    config = Gemma3Config(
        text_config=Gemma3TextConfig(**{**vocabulary(tokenizer), **text}).to_dict(),
        vision_config=SiglipVisionConfig(image_size=896, vision_use_head=False, **vision).to_dict(),
        mm_tokens_per_image=tokens,
        boi_token_index=tokenizer.convert_tokens_to_ids(GEMMA_MARKS["boi_token"]),
        eoi_token_index=tokenizer.convert_tokens_to_ids(GEMMA_MARKS["eoi_token"]),
        image_token_index=tokenizer.convert_tokens_to_ids(GEMMA_MARKS["image_token"]),
    )
    config.architectures, config.dtype = ["Gemma3ForConditionalGeneration"], dtype
    config.save_pretrained(folder)


MAKES = {"qwen2_5_vl": make_qwen2_5_vl, "gemma3": make_gemma3}

if __name__ == "__main__":
    family, place = sys.argv[1], Path(sys.argv[2])
    MAKES[family](place)
    save_weights(place)
