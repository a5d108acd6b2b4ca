"""What the state machine remembers of tensors and handles, and the bytes it expects in them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeVar, cast

import numpy as np
import numpy.typing as npt
import torch
from hypothesis import strategies as st

from shmtransport import Handle
from tests.property.oracle import Block

T = TypeVar("T")
Payload = npt.NDArray[np.uint8]
_MOST_NBYTES: Final = 1 << 20
_NOISE: Final[Payload] = np.random.default_rng(2).integers(0, 256, 3 * _MOST_NBYTES, dtype=np.uint8)


def pattern(number: int, nbytes: int) -> Payload:
    """What the put of this number writes."""
    start = number * 4099 % _MOST_NBYTES
    return _NOISE[start : start + nbytes]


def bytes_of(tensor: torch.Tensor | npt.NDArray[np.generic]) -> Payload:
    """The tensor's own memory."""
    return tensor.view(torch.uint8).numpy() if isinstance(tensor, torch.Tensor) else cast(Payload, tensor)


def choose(draw: st.DataObject, among: Sequence[T], label: str = "which") -> T:
    """One of ``among``. Only its place is drawn: hypothesis would keep a tensor that it had drawn alive."""
    return among[draw.draw(st.integers(0, len(among) - 1), label=label)]


@dataclass(eq=False, repr=False)
class Held:
    """A tensor that a process holds over [start, start + nbytes) of a block."""

    owner: str
    block: Block
    tensor: torch.Tensor | npt.NDArray[np.generic]
    expected: Payload
    start: int

    def __repr__(self) -> str:
        return f"<{self.owner}: {self.block} from {self.start}>"


@dataclass(eq=False, repr=False)
class Sent:
    """A handle that somebody made, as it crossed the socket."""

    wire: bytes
    sender: str
    to: set[str]
    block: Block
    expected: Payload
    start: int

    def __repr__(self) -> str:
        return f"<{self.sender} to {sorted(self.to)}: {self.block}, ticket {self.ticket}>"

    @property
    def ticket(self) -> tuple[int, int]:
        """Number and sequence."""
        handle = Handle.from_bytes(self.wire)
        return handle.ticket, handle.sequence
