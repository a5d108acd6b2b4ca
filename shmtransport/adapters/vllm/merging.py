"""In whoever runs the model: items of one batch are merged without a copy.

vLLM merges the items of a step into a new tensor, pinned where there is a GPU. Items that the frontend staged as one
batch lie one behind the other, so the batch is there already, and registered for DMA.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from shmtransport.adapters.seams import Module, Seam
from shmtransport.rejoining import rejoined


def module() -> Module:
    """The seams in vllm.multimodal.inputs. A release that has others merges as it always did."""

    def concatenate(original: Callable[..., Any], field: Any, batch: Sequence[Any], *args: Any, **kwargs: Any) -> Any:
        """Along a dimension: as vLLM does with a batch of one, which it does not copy."""
        whole = rejoined(batch) if field.dim == 0 else None
        return original(field, batch if whole is None else [whole], *args, **kwargs)

    def stack(original: Callable[..., Any], field: Any, batch: Sequence[Any], *args: Any, **kwargs: Any) -> Any:
        """Along a new one: what a batch of one is in that."""
        whole = rejoined([part.unsqueeze(0) if isinstance(part, torch.Tensor) else part for part in batch])
        if whole is None:
            return original(field, batch, *args, **kwargs)
        merged = original(field, [whole], *args, **kwargs)
        return merged[0]

    return Module(
        "vllm.multimodal.inputs",
        (
            Seam("MultiModalFlatField", "_reduce_data", ("self", "batch"), concatenate, optional=True),
            Seam("MultiModalBatchedField", "_reduce_data", ("self", "batch"), stack, optional=True),
        ),
    )
