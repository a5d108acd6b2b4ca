"""What one reader gets from several writers at once, each of which has a ring of its own.

Timed is from the order to send until all requests of 96 MB have been opened, in the reader; their bytes are not read
then. Before, one request of each kind from each writer is compared byte for byte.
"""

import statistics
import time
from collections.abc import Iterator
from typing import Final

import zmq

from bench.interferences import request, sockets
from bench.interferences.figures import Row
from bench.interferences.fleet import IDLE_S, START_S, fleet
from bench.interferences.request import IMAGES, POOL, same
from bench.interferences.shm_transport import ring
from bench.peers.ends import WrongBytesError
from shmtransport import Channel

NAME: Final = "writers"
WRITERS: Final = (1, 2, 4)
REQUESTS: Final = 24
"""Of all writers together."""
ROUNDS: Final = 11
QUICK_ROUNDS: Final = 3


def write(address: str) -> None:
    """A writer's process: sends as many requests as it is told, as fast as its ring has room."""
    pool = [request.images(number) for number in range(POOL)]
    with (
        zmq.Context() as context,
        sockets.dealer(context, address) as socket,
        ring() as own,
        Channel(socket, own, name="writer") as channel,
    ):
        channel.send("here")
        if not channel.join(timeout_s=START_S):
            raise RuntimeError("the reader did not join: everything would go inline")
        while (count := channel.recv(timeout_s=IDLE_S)) is not None:
            for number in range(count):
                channel.send([number, pool[number % POOL]])


def _check(channel: Channel, writer: bytes) -> None:
    channel.send(POOL, to=writer)
    for expected in range(POOL):
        number, pixels = channel.recv(timeout_s=START_S)
        if number != expected or not same(pixels, request.images(expected)):
            raise WrongBytesError(f"request {number} of a writer: other images than were sent")


def _seconds(channel: Channel, writers: list[bytes]) -> float:
    """For `REQUESTS`, in equal parts."""
    expected = dict.fromkeys(writers, 0)
    start = time.perf_counter()
    channel.send(REQUESTS // len(writers), to=writers)
    for _ in range(REQUESTS):
        writer, (number, pixels) = channel.recv_from(timeout_s=START_S)
        if number != expected[writer] or len(pixels) != IMAGES.tensors:
            raise WrongBytesError(f"expected request {expected[writer]} of a writer, got {number}")
        expected[writer] += 1
        del pixels
    return time.perf_counter() - start


def rows(*, quick: bool) -> Iterator[Row]:
    """One for each number of writers, which take turns."""
    seconds: dict[int, list[float]] = {count: [] for count in WRITERS}
    with fleet(write, max(WRITERS)) as (channel, writers):
        for writer in writers:
            _check(channel, writer)
        for _ in range(QUICK_ROUNDS if quick else ROUNDS):
            for count, found in seconds.items():
                found.append(_seconds(channel, writers[:count]))
    for count, found in seconds.items():
        gbps = REQUESTS * IMAGES.nbytes / statistics.median(found) / 1e9
        yield {
            "experiment": NAME,
            "subject": "shmtransport",
            "writers": count,
            "request_nbytes": IMAGES.nbytes,
            "requests": REQUESTS,
            "rounds": len(found),
            "gbps": gbps,
            "gbps_a_writer": gbps / count,
            "verified": True,
        }
