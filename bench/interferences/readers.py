"""What several readers get from one ring, into which each request is written once for all of them.

Timed is from the first request of 96 MB until every reader has said that it has opened and dropped the last; their
bytes are not read then. Before, each reader compares requests byte for byte.
"""

import statistics
import time
from collections.abc import Iterator
from typing import Final

import torch
import zmq

from bench.interferences import request, sockets
from bench.interferences.figures import Row
from bench.interferences.fleet import IDLE_S, START_S, fleet
from bench.interferences.request import IMAGES, POOL, same
from bench.interferences.shm_transport import ring
from bench.peers.ends import WrongBytesError
from shmtransport import Channel

NAME: Final = "readers"
READERS: Final = (1, 2, 4, 8)
REQUESTS: Final = 12
ROUNDS: Final = 11
QUICK_ROUNDS: Final = 3


def read(address: str) -> None:
    """A reader's process: opens and drops as many requests as it is told, and says how many were wrong."""
    torch.set_num_threads(1)
    with (
        zmq.Context() as context,
        sockets.dealer(context, address) as socket,
        Channel(socket, name="reader") as channel,
    ):
        channel.send("here")
        while (order := channel.recv(timeout_s=IDLE_S)) is not None:
            count, is_checked = order
            wrong = 0
            for expected in range(count):
                number, pixels = channel.recv(timeout_s=IDLE_S)
                is_right = number == expected and (not is_checked or same(pixels, request.images(expected)))
                wrong += not is_right
                del pixels
            channel.send(wrong)


def _send(channel: Channel, readers: list[bytes], pool: list[list[torch.Tensor]], *, count: int, check: bool) -> None:
    """Returns when all have them."""
    channel.send([count, check], to=readers)
    for number in range(count):
        channel.send([number, pool[number % POOL]], to=readers)
    for _ in readers:
        if wrong := channel.recv(timeout_s=START_S):
            raise WrongBytesError(f"{wrong} requests of a reader: other images than were sent")


def rows(*, quick: bool) -> Iterator[Row]:
    """One for each number of readers, which take turns."""
    seconds: dict[int, list[float]] = {count: [] for count in READERS}
    pool = [request.images(number) for number in range(POOL)]
    with ring() as own, fleet(read, max(READERS), own) as (channel, readers):
        if not channel.join(readers, timeout_s=START_S):
            raise RuntimeError("a reader did not join: everything would go inline")
        _send(channel, readers, pool, count=POOL, check=True)
        for _ in range(QUICK_ROUNDS if quick else ROUNDS):
            for count, found in seconds.items():
                start = time.perf_counter()
                _send(channel, readers[:count], pool, count=REQUESTS, check=False)
                found.append(time.perf_counter() - start)
    for count, found in seconds.items():
        gbps = REQUESTS * IMAGES.nbytes / statistics.median(found) / 1e9
        yield {
            "experiment": NAME,
            "subject": "shmtransport",
            "readers": count,
            "request_nbytes": IMAGES.nbytes,
            "requests": REQUESTS,
            "rounds": len(found),
            "written_gbps": gbps,
            "opened_gbps": gbps * count,
            "verified": True,
        }
