"""A channel in another process, and one here, on the two ends of a socket."""

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import msgspec
import torch
import zmq

from shmtransport import Channel, Ring
from tests.processes.children import Child
from tests.support import wait_until

Socket = zmq.Socket[bytes]

OPEN_THERE = """
context = zmq.Context()
socket = context.socket(getattr(zmq, kind))
socket.linger = 0
if identity: socket.routing_id = identity
(socket.bind if binds else socket.connect)(address)
ring = Ring.create(capacity, name="there") if capacity else None
channel = Channel(socket, ring, name="there")
"""
CLOSE_THERE = """
message = tensor = kept = None
gc.collect()
channel.close()
if ring: ring.close()
socket.close()
context.term()
"""


@dataclasses.dataclass
class Request:
    """What a frontend sends."""

    prompt: str
    images: list[torch.Tensor]


class Answer(msgspec.Struct):
    """What an engine answers."""

    request: Request
    scores: torch.Tensor
    times: dict[str, float]


@contextlib.contextmanager
def socket_here(kind: zmq.SocketType, address: str, *, binds: bool = True) -> Iterator[Socket]:
    """A socket of this process that drops what it has not sent."""
    context: zmq.Context[Socket] = zmq.Context()
    with context, context.socket(kind) as socket:
        socket.linger = 0
        (socket.bind if binds else socket.connect)(address)
        yield socket


@contextlib.contextmanager
def channel_there(
    child: Child, address: str, *, kind: str = "PAIR", capacity: str = "", identity: bytes = b"", binds: bool = False
) -> Iterator[None]:
    """``channel`` (and ``ring``, ``socket``) in the namespace of ``child``."""
    child.run(OPEN_THERE, address=address, kind=kind, capacity=capacity, identity=identity, binds=binds)
    yield
    child.run(CLOSE_THERE)


@contextlib.contextmanager
def pair(child: Child, folder: Path, ring: Ring | None = None, *, capacity: str = "") -> Iterator[Channel]:
    """A PAIR between this process, whose channel it gives, and ``child``; neither has joined the other's ring."""
    address = f"ipc://{folder}/pair"
    with (
        socket_here(zmq.PAIR, address) as socket,
        channel_there(child, address, capacity=capacity),
        Channel(socket, ring, name="here") as channel,
    ):
        yield channel


def introduce(channel: Channel, child: Child) -> None:
    """A word each way, and both sides have joined what rings there are."""
    channel.send("hello")
    child.run("assert channel.recv(timeout_s=20) == 'hello'; channel.send('hello')")
    assert channel.recv(timeout_s=20) == "hello"

    def both_joined() -> bool:
        child.run("channel._pump()")
        channel._pump()
        here = channel._exchange
        there = child.ask("not ring or channel._exchange.gets_handles(b'')")
        return bool(there) and (here.ring is None or here.gets_handles(b"") is True)

    wait_until(both_joined)
