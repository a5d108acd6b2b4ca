"""ZMQ sockets as vLLM's frontend and engine have them: a ROUTER, a DEALER, no limit of messages on either side."""

import secrets
from typing import TypeVar

import zmq

S = TypeVar("S", bound="zmq.Socket[object]")


def address() -> str:
    """Abstract: no file is left of it."""
    return f"ipc://@interference-{secrets.token_hex(8)}"


def router(context: "zmq.Context[S]", to: str) -> S:
    """The frontend's."""
    socket = _unlimited(context.socket(zmq.ROUTER))
    socket.bind(to)
    return socket


def dealer(context: "zmq.Context[S]", to: str) -> S:
    """The engine's."""
    socket = _unlimited(context.socket(zmq.DEALER))
    socket.connect(to)
    return socket


def _unlimited(socket: S) -> S:
    socket.setsockopt(zmq.SNDHWM, 0)
    socket.setsockopt(zmq.RCVHWM, 0)
    socket.setsockopt(zmq.LINGER, 1000)
    return socket
