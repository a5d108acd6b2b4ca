"""Makes a checkpoint to serve: LLaVA's own classes, a few MB of seeded weights.

    python -m shmtransport.demo_vllm.checkpoint FOLDER

Images become 896x896 pixels, 9.6 MB of float32, and only 64 tokens each. The weights have unit gain, so that the
answer depends on the pixels; with vLLM's ``load_format="dummy"`` a black and a white image get the same logprobs.
"""

import re
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

IMAGE_SIZE = 896
PATCH_SIZE = 112
MARKS = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
TEMPLATE = (
    "{% for m in messages %}{{ m['role']|upper }}: {% if m['content'] is string %}{{ m['content'] }}"
    "{% else %}{% for c in m['content'] %}{% if c['type'] in ('image', 'image_url') %}<image>\n"
    "{% else %}{{ c['text'] }}{% endif %}{% endfor %}{% endif %}\n{% endfor %}ASSISTANT:"
)


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level tokenizer of a few hundred tokens that can encode any text."""
    bpe = Tokenizer(models.BPE(unk_token=MARKS["unk_token"]))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(
        ["USER: What is in this image? ASSISTANT: the image shows a flower"] * 5,
        trainers.BpeTrainer(
            vocab_size=600,
            special_tokens=[*MARKS.values(), "<image>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )
    return PreTrainedTokenizerFast(tokenizer_object=bpe, additional_special_tokens=["<image>"], **MARKS)


def make_config(tokenizer: PreTrainedTokenizerFast) -> LlavaConfig:
    vision = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=IMAGE_SIZE,
        patch_size=PATCH_SIZE,
        projection_dim=32,
    )
    text = LlamaConfig(
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        vocab_size=-(-(len(tokenizer) + 1) // 64) * 64,
        max_position_embeddings=131072,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=3,
    )
    config = LlavaConfig(
        vision_config=vision.to_dict(),
        text_config=text.to_dict(),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        projector_hidden_act="gelu",
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        image_seq_length=(IMAGE_SIZE // PATCH_SIZE) ** 2,
    )
    config.architectures, config.dtype = ["LlavaForConditionalGeneration"], "float32"
    return config


def save_weights(folder: Path) -> None:
    """Under the names that vLLM expects."""
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(folder), dtype=torch.float32)
    for name, parameter in model.named_parameters():
        if parameter.ndim >= 2:
            parameter.data.normal_(0, parameter[0].numel() ** -0.5)
        elif name.endswith("bias"):
            parameter.data.zero_()
    model.save_pretrained(folder)
    path = folder / "model.safetensors"
    inner = re.compile(r"vision_tower\.(?!vision_model\.)")
    renamed = {inner.sub("vision_tower.vision_model.", name): value for name, value in load_file(path).items()}
    save_file(renamed, path, metadata={"format": "pt"})


def make(folder: Path) -> None:
    """Writes the checkpoint into ``folder``: configuration, tokenizer, image processor, weights."""
    tokenizer = make_tokenizer()
    LlavaProcessor(
        image_processor=CLIPImageProcessor(
            size={"shortest_edge": IMAGE_SIZE}, crop_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}
        ),
        tokenizer=tokenizer,
        patch_size=PATCH_SIZE,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    ).save_pretrained(folder)
    make_config(tokenizer).save_pretrained(folder)
    save_weights(folder)


if __name__ == "__main__":
    make(Path(sys.argv[1]))
