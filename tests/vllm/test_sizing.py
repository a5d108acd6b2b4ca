"""docs/sizing.md says of each family what its processor, as its release configures it, makes of an image."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from transformers import (
    CLIPImageProcessor,
    Gemma3ImageProcessor,
    GotOcr2ImageProcessor,
    LlavaNextImageProcessor,
    Qwen2VLImageProcessor,
)

from docs.pages.sizing import FAMILIES, Family

SHAPES = ((640, 480), (1024, 1024), (1920, 1080), (300, 2000), (2000, 300), (30, 40), (4032, 3024))
"""Width and height; the last three come below and above what Qwen's processors leave as it is."""

SQUARE_336 = {"size": {"shortest_edge": 336}, "crop_size": {"height": 336, "width": 336}}
GRIDS = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
PAN_AND_SCAN = {
    "do_pan_and_scan": True,
    "pan_and_scan_min_crop_size": 256,
    "pan_and_scan_max_num_crops": 4,
    "pan_and_scan_min_ratio_to_activate": 1.2,
}

# The values of each family's preprocessor_config.json; pan and scan as Gemma3Processor has it.
PROCESSORS: dict[str, Callable[[], Any]] = {
    "LLaVA 1.5": lambda: CLIPImageProcessor(**SQUARE_336),
    "LLaVA-NeXT (1.6)": lambda: LlavaNextImageProcessor(**SQUARE_336, image_grid_pinpoints=GRIDS),
    "Gemma 3": lambda: Gemma3ImageProcessor(size={"height": 896, "width": 896}),
    "Gemma 3, pan and scan": lambda: Gemma3ImageProcessor(size={"height": 896, "width": 896}, **PAN_AND_SCAN),
    "InternVL 3": lambda: GotOcr2ImageProcessor(
        size={"height": 448, "width": 448}, crop_to_patches=True, min_patches=1, max_patches=12
    ),
    "Qwen2-VL, Qwen2.5-VL": lambda: Qwen2VLImageProcessor(
        size={"shortest_edge": 3136, "longest_edge": 12845056}, patch_size=14, temporal_patch_size=2, merge_size=2
    ),
    "Qwen3-VL": lambda: Qwen2VLImageProcessor(
        size={"shortest_edge": 65536, "longest_edge": 16777216}, patch_size=16, temporal_patch_size=2, merge_size=2
    ),
}


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_processor_makes_as_many_elements_as_the_page_says(family: Family) -> None:
    processor = PROCESSORS[family.name]()
    found = {(width, height): elements_of(processor, width, height) for width, height in SHAPES}
    told = {(width, height): family.elements(width, height) for width, height in SHAPES}
    if family.most:
        assert max(found.values()) == max(told.values())
    else:
        assert found == told


def elements_of(processor: Any, width: int, height: int) -> int:
    image = np.zeros((height, width, 3), np.uint8)
    elements: int = processor(images=[image], return_tensors="pt")["pixel_values"].numel()
    return elements
