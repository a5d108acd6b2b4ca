"""A frontend and an engine for each way, told what to do from a process that is neither.

Each way has two processes of its own, so that no way's heap is what another way has left of it. All are forked from one
process that has imported vLLM and done nothing else. The frontends share the memory that requests are made of.
"""

import multiprocessing
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import torch.multiprocessing  # teaches multiprocessing to hand tensors over

from bench.gemma3 import images
from bench.peers.pair import Failure, Hung, Raised, Wrong

ROOT = Path(__file__).resolve().parents[2]
START_S = 120.0
"""An import of vLLM on a busy machine, and a ring."""
TRANSFER_S = 150.0
LEAVE_S = 20.0
_ENDS = "bench.gemma3.ends"

End = Literal["frontend", "engine"]


class Took(NamedTuple):
    """What one request took."""

    frontend_seconds: float
    """Encoding and the call that sends."""
    engine_seconds: float
    """Taking the message from the socket and decoding it, once it is there."""
    transport_seconds: float
    """From the one's beginning to the other's end."""
    cpu_seconds: float
    """Of both processes, all threads."""
    wire_nbytes: int
    frontend_growth_nbytes: int
    engine_growth_nbytes: int


class Pair:
    """One way's processes, which end with the ``with`` block."""

    def __init__(self, name: str, pixels: torch.Tensor) -> None:
        address = f"ipc://@issue-16461-{secrets.token_hex(8)}"
        context = multiprocessing.get_context("forkserver")
        self._connections: dict[End, Connection] = {}
        self._processes = []
        programs: dict[End, tuple[Callable[..., None], tuple[Any, ...]]] = {
            "frontend": (_frontend, (name, address, pixels)),
            "engine": (_engine, (name, address)),
        }
        for end, (program, arguments) in programs.items():
            self._connections[end], far = multiprocessing.Pipe()
            process = context.Process(target=program, args=(*arguments, far), daemon=True)
            process.start()
            far.close()
            self._processes.append(process)
        self.standing_nbytes = 0
        """Of shared memory that is there before the first request."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for connection in self._connections.values():
            connection.close()  # which its process takes for its end
        for process in self._processes:
            process.join(LEAVE_S)
            process.kill()

    def introduce(self) -> None:
        """The two ends to each other."""
        introduction, self.standing_nbytes = self._ask("frontend", START_S, "introduce")
        self._ask("frontend", START_S, "welcomed", self._ask("engine", START_S, "join", introduction))

    def transfer(self, count: int, seed: int) -> Took:
        """One request with that many of the images in the shared memory. Raises `Failure`."""
        self._ask("engine", TRANSFER_S, "receive", count, seed)
        self._ask("frontend", TRANSFER_S, "prepare", count, seed)
        sent = self._ask("frontend", TRANSFER_S, "send")
        decoded = self._answer("engine", TRANSFER_S)
        return Took(
            frontend_seconds=(sent.sent_ns - sent.began_ns) / 1e9,
            engine_seconds=(decoded.decoded_ns - decoded.there_ns) / 1e9,
            transport_seconds=(decoded.decoded_ns - sent.began_ns) / 1e9,
            cpu_seconds=sent.cpu_seconds + decoded.cpu_seconds,
            wire_nbytes=sent.wire_nbytes,
            frontend_growth_nbytes=sent.growth_nbytes,
            engine_growth_nbytes=decoded.growth_nbytes,
        )

    def _ask(self, end: End, timeout_s: float, *order: object) -> Any:
        try:
            self._connections[end].send(order)
        except OSError:
            raise Failure(f"the {end} is gone") from None
        return self._answer(end, timeout_s)

    def _answer(self, end: End, timeout_s: float) -> Any:
        if not self._connections[end].poll(timeout_s):
            raise Hung(f"no answer of the {end} within {timeout_s:.0f} s")
        try:
            how, said = self._connections[end].recv()
        except (EOFError, ConnectionResetError):
            raise Failure(f"the {end} is gone") from None
        if how == "done":
            return said
        raise (Wrong if how == "wrong" else Raised)(f"{end}: {said}")


def _frontend(*arguments: Any) -> None:
    from bench.gemma3.ends import serve_frontend

    serve_frontend(*arguments)


def _engine(*arguments: Any) -> None:
    from bench.gemma3.ends import serve_engine

    serve_engine(*arguments)


class Pairs(NamedTuple):
    """One for each way."""

    by_name: dict[str, Pair]
    pixels: torch.Tensor
    """What requests are made of: fill it before a transfer."""


@contextmanager
def pairs(names: Sequence[str], most_images: int) -> Iterator[Pairs]:
    """The ways so named, each ready for requests of so many images."""
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    multiprocessing.get_context("forkserver").set_forkserver_preload([_ENDS])
    pixels = torch.empty(most_images, *images.SHAPE).share_memory_()  # type: ignore[no-untyped-call]
    with ExitStack() as stack:
        by_name = {name: stack.enter_context(Pair(name, pixels)) for name in names}
        for pair in by_name.values():
            pair.introduce()
        yield Pairs(by_name, pixels)
