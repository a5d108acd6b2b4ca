"""Three ways for a request to travel over an ``ipc://`` socket, each with ``send`` and ``try_recv``.

The rivals get what they need to be fast. Multipart ZMQ hands the tensors to the socket in place and computes
on the frames that came out of it. Pickle is what a message with tensors gets where nobody took care, one
``dumps`` and one ``loads``, but it is not copied into or out of the socket either.
"""

import pickle
from abc import ABC, abstractmethod
from typing import ClassVar

import msgspec
import torch
import zmq

from shmtransport import Channel, Ring, WaitTimeoutError
from shmtransport.demo.messages import Request, payload_of
from shmtransport.demo.photographs import DTYPES
from shmtransport.demo.sockets import TIMEOUT_S, Sockets


class Transport(ABC):
    """One end of one way. Both processes have the same class, over the two ends of a pair of sockets."""

    name: ClassVar[str]

    def __init__(self, sockets: Sockets) -> None:
        self.socket = sockets.open(self.name)
        self.sent_nbytes = 0
        """What `send` has put through the socket so far, all frames."""

    @abstractmethod
    def send(self, request: Request) -> None:
        """Sends it; its tensors must not change until it was received."""

    @abstractmethod
    def try_recv(self) -> Request | None:
        """The request that has come, with tensors that can be computed on; never blocks.

        None: what has come was no request but, say, the introduction of a ring.
        """


class SharedMemory(Transport):
    """Each tensor is written into the ring, once; its handle goes through the socket."""

    name = "shmtransport"

    def __init__(self, sockets: Sockets, ring: Ring | None = None) -> None:
        super().__init__(sockets)
        self._channel = Channel(self.socket, ring, name="demo")

    def join(self) -> None:
        """Waits until the other process has joined the ring: until then it gets the bytes inline."""
        self._channel.join(timeout_s=TIMEOUT_S)

    def send(self, request: Request) -> None:
        self._channel.send(request, timeout_s=TIMEOUT_S)
        self.sent_nbytes = self._channel.statistics().sent_wire_nbytes

    def try_recv(self) -> Request | None:
        try:
            request: Request = self._channel.recv(Request, timeout_s=0)
        except WaitTimeoutError:
            return None
        return request


class Multipart(Transport):
    """Each tensor is a frame, which neither end copies: the kernel does, into the socket and out of it."""

    name = "zmq-multipart"

    def send(self, request: Request) -> None:
        described = [(str(image.dtype).removeprefix("torch."), image.shape) for image in request.images]
        head = msgspec.msgpack.encode((described, request.checksums))
        self.socket.send_multipart([head, *map(payload_of, request.images)], copy=False)
        self.sent_nbytes += len(head) + request.nbytes

    def try_recv(self) -> Request:
        head, *frames = self.socket.recv_multipart(zmq.NOBLOCK, copy=False)
        described, checksums = msgspec.msgpack.decode(head.buffer)
        images = [
            torch.frombuffer(frame.buffer, dtype=DTYPES[dtype]).view(shape)
            for frame, (dtype, shape) in zip(frames, described, strict=True)
        ]
        return Request(images, checksums)


class Pickle(Transport):
    """The whole request is one pickle. The sockets are private to one user: what comes is what was sent."""

    name = "pickle"

    def send(self, request: Request) -> None:
        message = pickle.dumps(request, protocol=pickle.HIGHEST_PROTOCOL)
        self.socket.send(message, copy=False)
        self.sent_nbytes += len(message)

    def try_recv(self) -> Request:
        request: Request = pickle.loads(self.socket.recv(zmq.NOBLOCK, copy=False).buffer)  # noqa: S301
        return request


WAYS: tuple[type[Transport], ...] = (SharedMemory, Multipart, Pickle)
