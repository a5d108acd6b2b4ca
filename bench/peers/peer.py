"""What every peer can do, whatever it is inside: carry requests, lists of tensors, from one process to another.

A peer is used as its own documentation says, in the mode that serves it best; its file says which and why. Nothing
here is about abuse or about speed: both are done to a peer from outside, through these calls alone.
"""

import multiprocessing
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

Bytes: TypeAlias = npt.NDArray[np.uint8]
"""Those of one tensor: one dimension, contiguous."""
Request: TypeAlias = Sequence[torch.Tensor]
"""What is sent at once."""
Received: TypeAlias = Sequence[torch.Tensor | Bytes]
"""What comes of it, tensor by tensor: a peer that moves bytes and no more leaves dtype and shape to its user."""

SHARED_MEMORY = Path("/dev/shm")
SPAWN = multiprocessing.get_context("spawn")
"""How the receiver's process is started, and so what queues between the two have to be made by."""


@dataclass(frozen=True)
class Terms:
    """What a pair is made for."""

    stem: str
    """Names begin with it where a peer lets one choose: the same after a restart, as a service's would be."""
    nbytes: int
    """Of the largest tensor."""
    tensors: int
    """In the longest request."""
    alive: int
    """Requests that may be alive at once: on their way, or the one in the receiver's hands."""

    @property
    def messages(self) -> int:
        """What may be alive at once where each tensor is a message of its own."""
        return self.alive * self.tensors

    @property
    def capacity_nbytes(self) -> int:
        """Of all that may be alive at once."""
        return self.messages * self.nbytes


def bytes_of(tensor: torch.Tensor | Bytes) -> Bytes:
    """The tensor's own memory where it is contiguous, else a copy of it."""
    if isinstance(tensor, torch.Tensor):
        tensor = tensor.contiguous().view(-1).view(torch.uint8).numpy()
    return tensor.reshape(-1).view(np.uint8)


def copy_into(memory: Bytes, tensor: torch.Tensor) -> None:
    """One copy, of a tensor that is not contiguous too. ``memory`` begins at a multiple of the item's size."""
    if tensor.is_contiguous():
        memory[:] = bytes_of(tensor)
    else:
        torch.from_numpy(memory).view(tensor.dtype).view(tensor.shape).copy_(tensor)


class Sender(ABC):
    """The end that has the tensors."""

    def prepare(self, request: Request) -> Request:
        """What a producer does that writes into the peer's own memory from the start; not part of the transfer."""
        return request

    @abstractmethod
    def send(self, request: Request) -> None:
        """Returns when the tensors may be overwritten; raises whatever the peer raises."""

    @abstractmethod
    def close(self) -> None:
        """As documented for an orderly end."""


class Receiver(ABC):
    """The end that wants them."""

    @abstractmethod
    def receive(self, tensors: int, timeout_s: float) -> Received:
        """The next request, of so many tensors. Their bytes stay until `drop`. Raises `TimeoutError`."""

    @abstractmethod
    def drop(self) -> None:
        """Gives back what was received."""

    @abstractmethod
    def close(self) -> None:
        """As documented for an orderly end."""


class Peer(ABC):
    """One way to bring tensors to another process."""

    name: ClassVar[str]
    package: ClassVar[str | None] = None
    """What to install; None for what comes with Python."""
    helper: ClassVar[str | None] = None
    """A process beside the two ends that removes what they leave, if it outlives them."""
    places: ClassVar[tuple[Path, ...]] = (SHARED_MEMORY,)
    """Folders where it keeps shared memory, or shared state that is to be removed with it."""

    def __init__(self, backing: str) -> None:
        self.backing = backing

    @classmethod
    def version(cls) -> str | None:
        """Of the installed package."""
        return metadata.version(cls.package) if cls.package else None

    @abstractmethod
    def make(self, terms: Terms) -> Any:
        """In the sender's process, first of all: what both ends need, to be pickled for the receiver's process.

        Removes what an earlier run left, where the documentation has a call for that.
        """

    @abstractmethod
    def sender(self, made: Any) -> Sender:
        """In the sender's process, before the receiver's is started."""

    @abstractmethod
    def receiver(self, made: Any) -> Receiver:
        """In the receiver's process. The first `Sender.send` comes after it has returned."""
