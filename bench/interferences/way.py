"""The ways from a frontend to its engine that are set side by side, and what each can do.

All have one socket, by which texts and requests with images go, as in vLLM, and two I/O threads of ZMQ in the frontend.
"""

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Final, NamedTuple

import torch

from bench import peers
from bench.interferences.request import Request

IO_THREADS: Final = 2
MEET_S: Final = 60.0


class Sender(ABC):
    """The frontend's end. Made on the event loop that uses it."""

    @abstractmethod
    async def meet(self) -> None:
        """Returns when the engine is there."""

    async def stage(self, pixels: list[torch.Tensor]) -> list[torch.Tensor]:
        """What is done where the images come from, before there is a request."""
        return pixels

    @abstractmethod
    async def send(self, request: Request) -> None:
        """Any number of tasks may wait in it. Images may not be written afterwards."""

    @abstractmethod
    def close(self) -> None:
        """Gives up the socket."""


class Receiver(ABC):
    """The engine's end, in a thread that does nothing else."""

    @abstractmethod
    def receive(self, timeout_s: float) -> Request:
        """The next one. Raises `TimeoutError`."""

    @abstractmethod
    def close(self) -> None:
        """Gives up the socket."""


class Way(NamedTuple):
    """Where one is found, and whose environment it needs."""

    file: str
    sender: str = "TheSender"
    peer: str | None = None
    is_texted: bool = True
    """Whether texts are timed on it, or only the event loop."""

    @property
    def python(self) -> Path:
        """Of its environment, which may not be there."""
        return peers.PLACES[self.peer].python if self.peer else Path(sys.executable)


WAYS: Final = {
    "shmtransport": Way("shm_transport", "Staging"),
    "shmtransport, copied by send": Way("shm_transport", "Copying"),
    "vLLM": Way("vllm_msgpack", peer="vLLM"),
    "pickle": Way("pickled", is_texted=False),
}


def sender_type(name: str) -> Callable[[str], Sender]:
    """Takes an address. Raises `ImportError` where it is not installed."""
    found: Callable[[str], Sender] = getattr(import_module(f"bench.interferences.{WAYS[name].file}"), WAYS[name].sender)
    return found


def receiver_type(name: str) -> Callable[[str], Receiver]:
    """Takes an address. Raises `ImportError` where it is not installed."""
    found: Callable[[str], Receiver] = import_module(f"bench.interferences.{WAYS[name].file}").TheReceiver
    return found
