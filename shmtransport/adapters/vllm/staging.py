"""Big tensors of one processed input, put into the ring before anybody waits for them.

Items of one batch are views of one storage: it is written once, as one block, and the items become views of
that block. Runs in the thread that processed the images, never on an event loop.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import torch

from shmtransport.adapters import rings
from shmtransport.adapters.vllm.fields import forget_slices
from shmtransport.ring import Ring

_PAYLOAD: Final = "data"  # vLLM's name for the tensors of a MultiModalFieldElem


def stage(mm_kwargs: Mapping[str, Iterable[Any]], ring: Ring, threshold_nbytes: int) -> None:
    """Replaces each CPU tensor of at least ``threshold_nbytes`` by its ring-backed equal, where there is room.

    ``mm_kwargs``: vLLM's MultiModalKwargsItems; an item is None if the engine has it in its cache. The elements
    are changed in place, so a cache of vLLM that holds them holds the ring-backed tensors from then on; their
    fields lose their slices (`forget_slices`). What found no room stays as it was, and is counted in the ring's
    statistics. Raises `UnsupportedTypeError`.
    """
    elements = [
        element for items in mm_kwargs.values() for item in items if item is not None for element in item.values()
    ]
    wanted = [
        tensor
        for element in elements
        for tensor in _tensors_in(element.data)
        if tensor.is_cpu and tensor.layout is torch.strided and tensor.nbytes >= threshold_nbytes
    ]
    staged = _put(wanted, ring)
    if staged:
        for element in elements:
            setattr(element, _PAYLOAD, _replaced(element.data, staged))
        forget_slices(elements)


def _tensors_in(nested: Any) -> Iterator[torch.Tensor]:
    if isinstance(nested, torch.Tensor):
        yield nested
    elif isinstance(nested, (list, tuple)):
        for part in nested:
            yield from _tensors_in(part)


def _replaced(nested: Any, staged: Mapping[int, torch.Tensor]) -> Any:
    if isinstance(nested, torch.Tensor):
        return staged.get(id(nested), nested)
    if isinstance(nested, (list, tuple)):
        return type(nested)(_replaced(part, staged) for part in nested)
    return nested


def _put(wanted: list[torch.Tensor], ring: Ring) -> dict[int, torch.Tensor]:
    """What found room, by the identity of the tensor it stands for."""
    staged: dict[int, torch.Tensor] = {}
    by_storage: dict[int, list[torch.Tensor]] = {}
    for tensor in wanted:
        if ring.holds(tensor):
            continue  # a cache hit: it was staged when it was first seen
        key = tensor.untyped_storage().data_ptr() if tensor.is_contiguous() else -id(tensor)
        by_storage.setdefault(key, []).append(tensor)
    for group in by_storage.values():
        staged |= _put_together(group, ring) if len(group) > 1 else _put_each(group, ring)
    return staged


def _put_each(group: list[torch.Tensor], ring: Ring) -> dict[int, torch.Tensor]:
    pairs = [(tensor, rings.put(tensor, ring)) for tensor in group]
    return {id(tensor): backed for tensor, backed in pairs if backed is not tensor}


def _put_together(group: list[torch.Tensor], ring: Ring) -> dict[int, torch.Tensor]:
    """Contiguous views of one storage: the bytes from the first to the last of them as one block.

    One at a time where too much lies between them, or an element would not be aligned.
    """
    begins = [tensor.storage_offset() * tensor.itemsize for tensor in group]
    begin = min(begins)
    nbytes = max(at + tensor.nbytes for at, tensor in zip(begins, group, strict=True)) - begin
    aligned = all((at - begin) % tensor.itemsize == 0 for at, tensor in zip(begins, group, strict=True))
    if not aligned or nbytes > 2 * sum(tensor.nbytes for tensor in group):
        return _put_each(group, ring)
    whole = torch.empty(0, dtype=torch.uint8).set_(group[0].untyped_storage(), begin, (nbytes,), (1,))
    block = rings.put(whole, ring)
    if block is whole:
        return {}
    return {
        id(tensor): block[at - begin : at - begin + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
        for at, tensor in zip(begins, group, strict=True)
    }
