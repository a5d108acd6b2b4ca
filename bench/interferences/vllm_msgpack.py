"""vLLM's own way, ``mm_tensor_ipc=direct_rpc``, with its classes and its function that makes sockets.

`AsyncMPClient._send_input` encodes on the event loop, where every tensor becomes a frame, and awaits ``send_multipart``
without a copy; `EngineCoreProc.process_input_sockets` polls, receives and decodes in a thread.
"""

from typing import Any

import zmq
import zmq.asyncio
from vllm.utils.network_utils import make_zmq_socket
from vllm.v1.engine import EngineCoreRequestType
from vllm.v1.serial_utils import MsgpackDecoder, MsgpackEncoder

from bench.interferences.request import Request
from bench.interferences.way import IO_THREADS, Receiver, Sender
from bench.peers.sockets import wait_for_message

ENGINE = b"\x00\x00"


class TheSender(Sender):
    def __init__(self, address: str) -> None:
        self._context = zmq.asyncio.Context(zmq.Context(IO_THREADS))
        self._socket: Any = make_zmq_socket(self._context, address, zmq.ROUTER, bind=True, linger=1000)
        self._encoder = MsgpackEncoder()

    async def meet(self) -> None:
        await self._socket.recv_multipart()

    async def send(self, request: Request) -> None:
        message = (ENGINE, EngineCoreRequestType.ADD.value, *self._encoder.encode(request))
        await self._socket.send_multipart(message, copy=False, track=True)

    def close(self) -> None:
        self._socket.close()
        self._context.term()


class TheReceiver(Receiver):
    def __init__(self, address: str) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket: Any = make_zmq_socket(self._context, address, zmq.DEALER, identity=ENGINE, bind=False)
        self._socket.send(b"here")
        self._decoder = MsgpackDecoder(Request)

    def receive(self, timeout_s: float) -> Request:
        wait_for_message(self._socket, timeout_s)
        _, *frames = self._socket.recv_multipart(copy=False)
        received: Request = self._decoder.decode(frames)
        return received

    def close(self) -> None:
        self._socket.close(linger=0)
        self._context.term()
