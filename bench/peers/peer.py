"""What every peer can do, whatever it is inside: carry messages of a fixed size from one process to another.

A peer is used as its own documentation says, in the mode that serves it best; its file says which and why. Nothing
here is about abuse or about speed: both are done to a peer from outside, through these calls alone.
"""

import multiprocessing
from abc import ABC, abstractmethod
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import numpy as np
import numpy.typing as npt

Payload: TypeAlias = npt.NDArray[np.uint8]
"""One dimension, contiguous."""

SHARED_MEMORY = Path("/dev/shm")
SPAWN = multiprocessing.get_context("spawn")
"""How the receiver's process is started, and so what queues between the two have to be made by."""


@dataclass(frozen=True)
class Terms:
    """What a pair is made for."""

    stem: str
    """Names begin with it where a peer lets one choose: the same after a restart, as a service's would be."""
    nbytes: int
    """Of each message."""
    alive: int
    """Messages that may be alive at once: on their way, or the one in the receiver's hands."""


class Sender(ABC):
    """The end that has the bytes."""

    @abstractmethod
    def send(self, payload: Payload) -> None:
        """Returns when ``payload`` may be overwritten; raises whatever the peer raises."""

    @abstractmethod
    def close(self) -> None:
        """As documented for an orderly end."""


class Receiver(ABC):
    """The end that wants them."""

    @abstractmethod
    def receive(self, timeout_s: float) -> Payload:
        """The next message. Its bytes stay until the next call or `close`. Raises `TimeoutError`."""

    @abstractmethod
    def close(self) -> None:
        """As documented for an orderly end."""


class Peer(ABC):
    """One way to bring messages to another process."""

    name: ClassVar[str]
    package: ClassVar[str | None] = None
    """What to install; None for what comes with Python."""
    backings: ClassVar[tuple[str, ...]] = ("posix",)
    """What payload can be kept in, as far as one can choose."""
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
