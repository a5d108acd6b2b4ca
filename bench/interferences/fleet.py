"""Several processes that talk with this one by channels on one ROUTER. They are forked from a server that has imported
what takes seconds, and never from this process, which has threads.
"""

import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.context import ForkServerProcess
from typing import Final

import zmq

from bench.interferences import sockets
from shmtransport import Channel, Ring

START_S: Final = 60.0
IDLE_S: Final = 120.0
"""After which a process that is told nothing gives up."""

_server = multiprocessing.get_context("forkserver")
_server.set_forkserver_preload(["torch", "msgspec", "shmtransport"])


@contextmanager
def fleet(
    run: Callable[[str], None], processes: int, ring: Ring | None = None
) -> Iterator[tuple[Channel, list[bytes]]]:
    """A channel of this process, with ``ring``, and its peers, each of which runs ``run`` with an address to connect
    to.

    A peer first sends an object, when it is ready: they start one after the other, since a writer measures its copy
    kernels. It ends when it gets None.
    """
    address = sockets.address()
    started: list[ForkServerProcess] = []
    with ExitStack() as stack:
        context: zmq.Context[zmq.Socket[bytes]] = stack.enter_context(zmq.Context())
        channel = stack.enter_context(Channel(stack.enter_context(sockets.router(context, address)), ring))
        stack.callback(_end, started)
        peers = []
        for _ in range(processes):
            started.append(_server.Process(target=run, args=(address,), daemon=True))
            started[-1].start()
            peers.append(channel.recv_from(timeout_s=START_S)[0])
        yield channel, peers
        channel.send(None, to=peers)
        for process in started:
            process.join(START_S)


def _end(processes: list[ForkServerProcess]) -> None:
    for process in processes:
        process.kill()
        process.join()
