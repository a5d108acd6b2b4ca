"""A drop-in for `multiprocessing.Queue` with one consumer: tensors and arrays in what is put travel by handle."""

import io
import pickle
import queue
from contextlib import suppress
from multiprocessing.util import Finalize
from typing import Any
from uuid import uuid4

import numpy as np
import torch
import zmq

from shmtransport import Channel, Ring, WaitTimeoutError

CLOSING_S = 10.0
A_DAY_S = 86400.0


class _Pickler(pickle.Pickler):
    """Takes tensors and arrays out of what it pickles."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, protocol=5)
        self.tensors: list[Any] = []

    def persistent_id(self, value: object) -> int | None:
        if not isinstance(value, (torch.Tensor, np.ndarray)) or getattr(value, "dtype", None) == np.dtype(object):
            return None
        self.tensors.append(value)
        return len(self.tensors) - 1


class _Unpickler(pickle.Unpickler):
    """Puts them back."""

    def __init__(self, file: io.BytesIO, tensors: list[Any]) -> None:
        super().__init__(file)
        self._tensors = tensors

    def persistent_load(self, index: int) -> Any:
        return self._tensors[index]


class _End:
    """One process's end: the consumer's binds, a producer's connects and has a ring."""

    def __init__(self, address: str, capacity: int | str, consumes: bool) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER if consumes else zmq.DEALER)
        if consumes:
            self._socket.bind(address)
        else:
            self._socket.connect(address)
        self._ring = None if consumes else Ring.create(capacity, name="producer")
        self.channel = Channel(self._socket, self._ring, name="queue")
        self.close = Finalize(self, _End._close, (self.channel, self._ring, self._context), exitpriority=10)

    @staticmethod
    def _close(channel: Channel, ring: Ring | None, context: "zmq.Context[zmq.Socket[bytes]]") -> None:
        """A handle that nobody has opened is worth nothing once its writer is gone, so it waits."""
        if ring is not None:
            with suppress(WaitTimeoutError):
                ring.drain(timeout_s=CLOSING_S)
        channel.close()
        if ring is not None:
            ring.close()
        context.destroy(linger=round(CLOSING_S * 1000))


class TensorQueue:
    """Any number of processes put what can be pickled, one gets it; give it to them as an argument of `Process`.

    Under fork nobody may have used it before. What one gets is read-only, and a write into such a tensor faults:
    `clone()` what is to be changed. ``capacity`` is that of each producer's ring; what finds no room in it travels in
    the message. There is no ``maxsize``, ``qsize``, ``empty`` or ``full``. Not thread-safe.
    """

    def __init__(self, capacity: int | str = "256MiB") -> None:
        self._address = f"ipc://@tensor-queue-{uuid4()}"  # abstract: nothing to remove
        self._capacity = capacity
        self._end: _End | None = None

    def put(self, obj: object, block: bool = True, timeout: float | None = None) -> None:
        """Raises `queue.Full` if the consumer is 2000 messages behind and stays so for ``timeout`` seconds."""
        file = io.BytesIO()
        pickler = _Pickler(file)
        pickler.dump(obj)
        waiting_s = _seconds(block, timeout)
        try:
            self._opened(consumes=False).channel.send(
                [file.getvalue(), pickler.tensors], timeout_s=A_DAY_S if waiting_s is None else waiting_s
            )
        except WaitTimeoutError:
            raise queue.Full from None

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """Raises `queue.Empty` if nothing comes for ``timeout`` seconds, or nothing is there."""
        try:
            pickled, tensors = self._opened(consumes=True).channel.recv(timeout_s=_seconds(block, timeout))
        except WaitTimeoutError:
            raise queue.Empty from None
        return _Unpickler(io.BytesIO(pickled), tensors).load()

    def close(self) -> None:
        """This process is through with it. A producer waits, 10 s at most, until all it put was got."""
        if self._end is not None:
            self._end.close()
            self._end = None

    def _opened(self, consumes: bool) -> _End:
        if self._end is None:
            self._end = _End(self._address, self._capacity, consumes)
        return self._end

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_end": None}


def _seconds(block: bool, timeout: float | None) -> float | None:
    return timeout if block else 0.0
