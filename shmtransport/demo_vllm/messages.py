"""What a child process of the demo reports when it is done, as JSON."""

import msgspec

from shmtransport.demo_vllm.answers import Compared


class Measured(msgspec.Struct, frozen=True):
    """One request, as its frontend saw it. Times are those of the kernel's monotonic clock."""

    request_id: str
    images: int
    payload_nbytes: int
    """Of the pixels that were sent: images that the engine's cache holds are none."""
    wire_nbytes: int
    """Of the parts of the message that carries the request to the EngineCore."""
    staged_s: float
    """How long the plugin took to put the pixels into its ring, before `sent_s`; 0 when it is off."""
    sent_s: float
    """When the engine client was given the request, with its pixels made."""
    request_s: float
    """From photographs in hand until the answer of one token was there."""
    begun_s: float
    """When the photographs were in hand."""


class Served(msgspec.Struct, frozen=True):
    """What one vLLM has served."""

    version: str
    """Of vLLM."""
    compared: dict[int, Compared]
    """By number of images."""
    measured: list[Measured]
    """Without those of the warm-up."""
