"""Lets PyPI's torchvision import beside a CPU torch.

Its compiled part is a CUDA build that cannot load there, and then ``import torchvision`` fails for want of two
operator schemas; the image paths of vLLM and SGLang need no more than these. `make venv-vllm` and `make venv-sglang`
copy this file to site-packages with a .pth line that imports it, so that it runs before anything imports torchvision.
"""

import sys
from importlib.abc import MetaPathFinder
from typing import Any


class _BeforeTorchvision(MetaPathFinder):
    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:  # noqa: ARG002
        if name == "torchvision":
            sys.meta_path.remove(self)
            import torch

            make: Any = torch.library.Library
            library = make("torchvision", "DEF")
            for operator in ("nms", "qnms"):
                library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            kept.append(library)


kept: list[Any] = []
sys.meta_path.insert(0, _BeforeTorchvision())
