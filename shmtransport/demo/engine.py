"""The engine process: receives requests, checks every byte, embeds every patch, answers with a receipt.

Started by the frontend as ``python -m shmtransport.demo.engine DIRECTORY [--only-check]``; with that option it embeds
nothing, and takes tensors of any shape. Its standard input is a pipe on
which nothing is ever written: it ends when the frontend does, however that ends, and so does the engine.
"""

import sys
import time
from pathlib import Path

import msgspec
import torch
import zmq

from shmtransport.demo.messages import Receipt, Request, checksum, minor_faults
from shmtransport.demo.photographs import PATCH_SIDE
from shmtransport.demo.sockets import RECEIPTS, Socket, Sockets
from shmtransport.demo.transports import WAYS, Transport

HIDDEN = 16
ONLY_CHECK = "--only-check"


class PatchEmbedding:
    """A vision encoder's first layer: [3, 896, 896] to one vector for each of its 64 x 64 patches."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        shape = (HIDDEN, 3, PATCH_SIDE, PATCH_SIDE)
        self._kernel = torch.randn(shape, generator=generator) / (3 * PATCH_SIDE**2) ** 0.5

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        """[patches, hidden], in the image's dtype."""
        embedded = torch.nn.functional.conv2d(image[None], self._kernel.to(image.dtype), stride=PATCH_SIDE)
        return embedded[0].flatten(1).T


def inspect(request: Request, embed: PatchEmbedding | None) -> tuple[int, int]:
    """How many images have their checksum, and how many patches were embedded to finite numbers."""
    verified = patches = 0
    for image, expected in zip(request.images, request.checksums, strict=True):
        verified += checksum(image) == expected
        patches += int(embed(image).isfinite().all(1).sum()) if embed is not None else 0
    return verified, patches


def serve(transports: list[Transport], receipts: Socket, frontend: int, embed: PatchEmbedding | None) -> None:
    """Answers every request with a receipt, until ``frontend``, a pipe on which nothing is said, has ended."""
    poller = zmq.Poller()
    for source in (frontend, *(transport.socket for transport in transports)):
        poller.register(source, zmq.POLLIN)
    receipts.send(msgspec.msgpack.encode(Receipt(ready_ns=time.monotonic_ns())))

    faults = minor_faults()
    while frontend not in (heard := dict(poller.poll())):
        for transport in transports:
            if transport.socket not in heard:
                continue
            request = transport.try_recv()
            ready_ns = time.monotonic_ns()
            if request is None:
                continue
            taken = minor_faults() - faults
            verified, patches = inspect(request, embed)
            del request  # before the receipt, which says that its memory may be used again
            faults = minor_faults()
            receipts.send(msgspec.msgpack.encode(Receipt(ready_ns, taken, verified, patches)))


def main() -> None:
    """The process, from its start to its end."""
    torch.set_num_threads(1)  # threads that wait for the next operation would take the frontend's time
    with Sockets(Path(sys.argv[1]), binds=False) as sockets:
        transports = [way(sockets) for way in WAYS]
        embed = None if ONLY_CHECK in sys.argv[2:] else PatchEmbedding()
        serve(transports, sockets.open(RECEIPTS), sys.stdin.fileno(), embed)


if __name__ == "__main__":
    main()
