"""What unit tests do with a reader and its ring, in a word each."""

import torch

from shmtransport import Handle, Reader, Ring

KIB, MIB = 1 << 10, 1 << 20
NOBODY = "0" * 32
"""The id of no reader."""


def bytes_tensor(nbytes: int, fill: int = 0) -> torch.Tensor:
    """So many bytes of one value."""
    return torch.full((nbytes,), fill, dtype=torch.uint8)


def die(reader: Reader) -> None:
    """To the others ``reader``'s process is dead from here on: its lock is free, its bits stay."""
    reader.attachment.core.abandon()


def shared(ring: Ring, tensor: torch.Tensor, *readers: Reader) -> Handle:
    """A handle, and never inline."""
    sent = ring.share(tensor, readers)
    assert isinstance(sent, Handle), ring.statistics().inline
    return sent


def opened(reader: Reader, sent: object) -> torch.Tensor:
    """The torch tensor behind what ``share`` answered, over the wire."""
    tensor = reader.open(bytes(sent))  # type: ignore[call-overload]
    assert isinstance(tensor, torch.Tensor)
    return tensor


def blocks(ring: Ring) -> int:
    """Blocks that somebody holds."""
    return ring.statistics().blocks
