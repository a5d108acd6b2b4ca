"""The pairs of sockets between the two processes: one pair a transport, and one for receipts."""

from pathlib import Path
from types import TracebackType
from typing import Self, TypeAlias

import zmq

Socket: TypeAlias = zmq.Socket[bytes]

RECEIPTS = "receipts"
TIMEOUT_S = 30.0
"""After which sending or receiving on any of the sockets raises."""

SEND_NBYTES = 4 << 20
"""What the kernel takes from a sender at a time, as far as net.core.wmem_max allows. Tensors gain by it that go
through the socket: 10 to 15 % of the time of 96 MB in multipart messages, measured on two cores of an EPYC."""


class Sockets:
    """One process's ends, closed with the ``with`` block, sent or not. They meet in ``directory``, by name.

    The frontend, whose directory it is, binds; the engine connects. The context is the process's own and ends with
    it: terminating one can wait for ever after a peer was killed, whatever the sockets linger (libzmq issue 2586;
    seen here with 4.3.5, in one of ten engines whose frontend got a SIGKILL).
    """

    def __init__(self, directory: Path, *, binds: bool) -> None:
        self._opened: list[Socket] = []
        self._directory = directory
        self._binds = binds

    def open(self, name: str) -> Socket:
        """This process's end of the pair ``name``."""
        context: zmq.Context[Socket] = zmq.Context.instance()
        socket = context.socket(zmq.PAIR)
        self._opened.append(socket)
        socket.sndtimeo = socket.rcvtimeo = int(TIMEOUT_S * 1000)
        socket.sndbuf = SEND_NBYTES
        address = f"ipc://{self._directory / name}"
        if self._binds:
            socket.bind(address)
        else:
            socket.connect(address)
        return socket

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for socket in self._opened:
            socket.close(linger=0)
