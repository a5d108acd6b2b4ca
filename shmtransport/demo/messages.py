"""What the two processes say to each other, whatever carries it."""

import resource
import zlib
from dataclasses import dataclass

import msgspec
import torch


@dataclass
class Request:
    """One request as a frontend has it in hand and an engine wants it.

    The checksums were taken before it was sent and travel beside the tensors, not in them.
    """

    images: list[torch.Tensor]
    checksums: list[int]

    @property
    def nbytes(self) -> int:
        """Payload: the bytes of all images."""
        return sum(image.nbytes for image in self.images)


class Receipt(msgspec.Struct, frozen=True):
    """The engine's answer to one request, sent when it has dropped the request's tensors; one more when it starts."""

    ready_ns: int
    """CLOCK_MONOTONIC, which is the same in all processes of a host, when the engine had the tensors."""
    minor_faults: int = 0
    """Page faults of the engine from waiting for the request until then."""
    images_verified: int = 0
    patches: int = 0
    """Patches that were embedded, each to finite numbers."""


def payload_of(tensor: torch.Tensor) -> memoryview:
    """The bytes of a contiguous tensor of any dtype, in place."""
    return tensor.view(-1).view(torch.uint8).numpy().data


def checksum(tensor: torch.Tensor) -> int:
    """CRC-32 of the tensor's bytes: never misses a single wrong byte, nor any burst of up to 4 bytes."""
    return zlib.crc32(payload_of(tensor))


def minor_faults() -> int:
    """Page faults of this process, all its threads, that needed no reading from disk."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
