"""What stands in a request in place of a tensor: SGLang's own pointer to a segment, or a handle.

SGLang knows its pointers by the name of their class and its module, encodes them by ``__getstate__``, and passes
them on as often as it likes: tokenizer, router, data-parallel controller, rank 0, the other ranks. So a pointer with
a handle attaches to nothing until a rank asks for its tensor, and its state can be read by a process without this
plugin: there it names a segment that is not there, which fails one request and nothing else.
"""

from typing import Any, Final

import torch

from shmtransport import handles
from shmtransport.adapters.sglang.receiving import Rank
from shmtransport.errors import ShmTransportError
from shmtransport.handles import Handle

POINTER: Final = "sglang.srt.managers.mm_utils.ShmPointerMMData"
NO_SEGMENT: Final = "shmt-by-handle"
"""The name of a segment that never is."""
HANDLE: Final = "shmt"
RING: Final = "shmt_ring"
VERSION: Final = "shmt_version"
"""Keys of a state that SGLang's own class does not look at."""


def pointer_class(original: Any, rank: Rank) -> type:
    """A subclass of SGLang's class that takes handles too; with a segment it does what ``original`` does.

    ``original`` is in a closure: `HookRegistry` rewrites whatever module has it in a global.
    """

    class Pointer(original):  # type: ignore[misc]
        handle: bytes | None = None
        """As it travels. None: it points to a segment of SGLang's own."""
        announced: str | None = None
        """The id of a ring that ranks are asked to join; it rides with a segment, until they have."""
        _tensor: torch.Tensor | None = None

        @classmethod
        def by_handle(cls, handle: bytes, tensor: torch.Tensor, precomputed_hash: int | None) -> Any:
            """For what ``handle`` was shared for, ``tensor``."""
            made = cls.__new__(cls)
            made._point_to(handle, tensor.shape, tensor.dtype, precomputed_hash)
            return made

        def _point_to(self, handle: bytes | None, shape: Any, dtype: torch.dtype, precomputed_hash: int | None) -> None:
            self.handle = handle
            self.shm_name = NO_SEGMENT
            self.shape = shape
            self.dtype = dtype
            self.precomputed_hash = precomputed_hash
            self._shm_handle = None
            self._materialization_error: str | None = None

        def __getstate__(self) -> dict[str, Any]:
            state: dict[str, Any] = super().__getstate__()
            if self.handle is not None:
                state[HANDLE] = self.handle
            elif self.announced is not None:
                state[RING], state[VERSION] = self.announced, handles.VERSION
            return state

        def __setstate__(self, state: dict[str, Any]) -> None:
            """As SGLang's own, it raises nothing that ``materialize`` can raise instead: all ranks must come so far."""
            wire = state.get(HANDLE)
            if wire is None:
                super().__setstate__(state)
                if state.get(VERSION) == handles.VERSION:
                    self.announced = state.get(RING)
                return
            refusal = None
            try:
                Handle.from_bytes(wire)
            except ShmTransportError as error:
                wire, refusal = None, f"{type(error).__name__}: {error}"
            self._point_to(wire, state["shape"], state["dtype"], state.get("precomputed_hash"))
            self._materialization_error = refusal

        @property
        def tensor(self) -> torch.Tensor | None:
            """What it points to: opened when it is first asked for, if it is a handle."""
            if self._tensor is None and self.handle is not None:
                self._tensor = rank.open(self.handle)
            return self._tensor

        @tensor.setter
        def tensor(self, tensor: torch.Tensor | None) -> None:
            self._tensor = tensor

        def materialize(self) -> torch.Tensor:
            """The tensor: with a handle no copy, read-only, and a lease of this rank until its last view has died."""
            if self.handle is None:
                made: torch.Tensor = super().materialize()
                return made
            tensor = rank.open(self.handle) if self._tensor is None else self._tensor
            self._tensor = None
            return rank.owned(tensor)

        def close_and_unlink(self) -> None:
            """For a request that is not served: with a handle, this rank's part of the ticket ends."""
            if self.handle is None:
                super().close_and_unlink()
            else:
                self._tensor = None
                rank.refuse(self.handle)

    for name in ("__module__", "__name__", "__qualname__", "__doc__"):
        setattr(Pointer, name, getattr(original, name))
    return Pointer
