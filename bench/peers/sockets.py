"""A pair of ZMQ sockets between the two ends, for the peers that send over them."""

import secrets
from typing import TypeAlias

import zmq

from bench.peers.peer import Terms

Socket: TypeAlias = "zmq.Socket[bytes]"


def address(terms: Terms) -> str:
    """Abstract: no file is left of it."""
    return f"ipc://@{terms.stem}-{secrets.token_hex(8)}"


def bound(to: str) -> Socket:
    """The sender's."""
    socket: Socket = zmq.Context.instance().socket(zmq.PAIR)
    socket.bind(to)
    return socket


def connected(to: str) -> Socket:
    """The receiver's."""
    socket: Socket = zmq.Context.instance().socket(zmq.PAIR)
    socket.connect(to)
    return socket


def wait_for_message(socket: Socket, timeout_s: float) -> None:
    """Raises `TimeoutError`."""
    if not socket.poll(int(timeout_s * 1000)):
        raise TimeoutError(f"no message within {timeout_s} s")


def frames(socket: Socket, timeout_s: float) -> list[zmq.Frame]:
    """The next message's, not copied."""
    wait_for_message(socket, timeout_s)
    return socket.recv_multipart(copy=False)
