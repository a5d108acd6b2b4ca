"""Pickle over ZMQ, on the event loop, as vLLM did to nested tensors until 0.8.3."""

import pickle

import zmq
import zmq.asyncio

from bench.interferences import sockets
from bench.interferences.request import Request
from bench.interferences.way import IO_THREADS, Receiver, Sender
from bench.peers.sockets import frames


class TheSender(Sender):
    def __init__(self, address: str) -> None:
        self._context = zmq.asyncio.Context(IO_THREADS)
        self._socket = sockets.router(self._context, address)

    async def meet(self) -> None:
        self._engine, _ = await self._socket.recv_multipart()

    async def send(self, request: Request) -> None:
        body = pickle.dumps(request, protocol=pickle.HIGHEST_PROTOCOL)
        await self._socket.send_multipart([self._engine, body], copy=False)

    def close(self) -> None:
        self._socket.close()
        self._context.term()


class TheReceiver(Receiver):
    def __init__(self, address: str) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = sockets.dealer(self._context, address)
        self._socket.send(b"here")

    def receive(self, timeout_s: float) -> Request:
        (frame,) = frames(self._socket, timeout_s)
        received: Request = pickle.loads(frame.buffer)
        return received

    def close(self) -> None:
        self._socket.close(linger=0)
        self._context.term()
