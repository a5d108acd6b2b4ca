"""The engine's process: `python -m bench.interferences.engine WAY ADDRESS FD`.

As in vLLM one thread receives and decodes, and does nothing else, and another one uses the images: here it compares
each byte, as a copy to an accelerator would read it.
"""

import gc
import queue
import sys
import threading
import time
from multiprocessing.connection import Connection

import torch

from bench.interferences import request
from bench.interferences.request import POOL, Request, same
from bench.interferences.way import Receiver, receiver_type
from bench.peers.ends import WrongBytesError, answer, orders

RECEIVE_S = 60.0


class Core:
    """The thread that uses images."""

    def __init__(self) -> None:
        self._expected = [request.images(number) for number in range(POOL)]
        self._queue: queue.Queue[Request] = queue.Queue()
        self._wrong: list[int] = []
        threading.Thread(target=self._run, daemon=True).start()

    def take(self, arrived: Request) -> None:
        self._queue.put(arrived)

    def finish(self) -> None:
        """Returns when it is through. Raises `WrongBytesError`."""
        self._queue.join()
        if self._wrong:
            raise WrongBytesError(f"requests {self._wrong}: other images than were sent")

    def _run(self) -> None:
        while True:
            arrived = self._queue.get()
            if not same(arrived.pixels, self._expected[arrived.number % POOL]):
                self._wrong.append(arrived.number)
            del arrived
            self._queue.task_done()


def serve(receiver: Receiver, core: Core, texts: int, requests: int) -> tuple[list[int], list[int]]:
    """How long each text and each request with images took from the call that sent it until it was decoded, in ns."""
    took: tuple[list[int], list[int]] = ([], [])
    seen: tuple[set[int], set[int]] = (set(), set())
    for _ in range(texts + requests):
        arrived = receiver.receive(RECEIVE_S)
        there_ns = time.monotonic_ns()
        kind = 1 if arrived.pixels else 0
        took[kind].append(there_ns - arrived.sent_ns)
        seen[kind].add(arrived.number)
        if arrived.prompt_token_ids != request.prompt(arrived.number):
            raise WrongBytesError(f"request {arrived.number}: another prompt than was sent")
        if arrived.pixels:
            core.take(arrived)
        del arrived
    core.finish()
    if seen != (set(range(texts)), set(range(requests))):
        raise WrongBytesError(f"expected {texts} texts and {requests} requests, each once, got {seen}")
    return took


def main() -> None:
    name, address, fd = sys.argv[1:]
    connection = Connection(int(fd))
    torch.set_num_threads(1)
    made: list[tuple[Receiver, Core]] = []

    def start() -> None:
        made.append((receiver_type(name)(address), Core()))
        gc.collect()
        gc.freeze()

    if not answer(connection, start):
        return
    receiver, core = made[0]
    for order in orders(connection):
        match order:
            case "expect", texts, requests:
                connection.send(("done", None))
                answer(connection, lambda: serve(receiver, core, texts, requests))
            case ("close",):
                answer(connection, receiver.close)
                return


if __name__ == "__main__":
    main()
