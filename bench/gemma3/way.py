"""What every way can do: its frontend makes frames of a request, its engine a request of frames."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
import zmq

Frame: TypeAlias = bytes | bytearray | memoryview
"""Of a ZMQ message, as the socket takes it."""


class Frontend(ABC):
    """The end that has the pixels."""

    standing_nbytes = 0
    """Of shared memory that it has from the start."""

    def introduction(self) -> tuple[Any, ...]:
        """What `Engine.join` is called with, before the first request."""
        return ()

    def welcomed(self, answer: Any) -> None:  # noqa: B027 - most need nothing
        """What it answered."""

    @abstractmethod
    def request(self, pixels: torch.Tensor, seed: int) -> Any:
        """A batch of images as this frontend has it when it comes to send it. New objects each time."""

    @abstractmethod
    def encode(self, request: Any) -> Sequence[Frame]:
        """The message. What it refers to stays until it is sent."""

    def close(self) -> None:  # noqa: B027
        """The end of the run."""


class Engine(ABC):
    """The end that wants them."""

    def join(self, *introduction: Any) -> Any:  # noqa: ARG002 - most need none
        """What `Frontend.welcomed` is to know."""
        return None

    @abstractmethod
    def decode(self, frames: Sequence[zmq.Frame]) -> Any:
        """The request, its tensors ready to be used."""

    @abstractmethod
    def pixels(self, request: Any) -> list[torch.Tensor]:
        """Each image's, of a request that `decode` answered."""


def frame_nbytes(frame: Frame) -> int:
    """Of what goes over the socket."""
    return memoryview(frame).nbytes
