"""A frontend and its engine, seen from a third process that gives them orders. Whatever they do, it has a deadline."""

import multiprocessing
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Literal, NamedTuple

from bench.interferences import sockets
from bench.interferences.way import WAYS
from bench.peers.pair import ROOT, START_S, Failure, Hung, Raised, Wrong

ORDER_S = 90.0
STDERR = 2
"""Where the ends' own output goes, too: some print what they are."""


class Took(NamedTuple):
    """From the call that sends until the engine has decoded, in ms."""

    texts: list[float]
    requests: list[float]


class End:
    """One of the two processes."""

    def __init__(self, name: Literal["frontend", "engine"], way: str, address: str) -> None:
        self._name = name
        self._connection, far = multiprocessing.Pipe()
        fd = far.fileno()
        command = [str(WAYS[way].python), "-m", f"bench.interferences.{name}", way, address, str(fd)]
        self._process = subprocess.Popen(command, cwd=ROOT, pass_fds=[fd], stdin=subprocess.DEVNULL, stdout=STDERR)
        far.close()

    def begin(self, *order: object) -> None:
        """Gives an order; `finish` waits for what comes of it."""
        try:
            self._connection.send(order)
        except OSError:
            raise self._ended() from None

    def finish(self, timeout_s: float = ORDER_S) -> Any:
        """What the last order came to."""
        try:
            if not self._connection.poll(timeout_s):
                raise Hung(f"{self._name} hangs: no answer within {timeout_s:.0f} s")
            how, answer = self._connection.recv()
        except (EOFError, ConnectionResetError):
            raise self._ended() from None
        if how == "raised":
            raise Raised(f"{answer}")
        if how == "wrong":
            raise Wrong(f"{self._name}: {answer}")
        return answer

    def _ended(self) -> Failure:
        try:
            return Failure(f"{self._name} ended with status {self._process.wait(ORDER_S)}")
        except subprocess.TimeoutExpired:
            return Failure(f"{self._name} talks no more")

    def close(self) -> None:
        """Returns when it has ended in order."""
        self.begin("close")
        self.finish()
        try:
            self._process.wait(ORDER_S)
        except subprocess.TimeoutExpired:
            raise Hung(f"{self._name} still runs {ORDER_S:.0f} s after it was closed") from None

    def end(self) -> None:
        """Kills it, if it still runs."""
        self._connection.close()
        self._process.kill()
        self._process.wait()


class Service:
    """A living pair. Made by `running`."""

    def __init__(self, frontend: End, engine: End) -> None:
        self._frontend = frontend
        self._engine = engine

    def texts(self, count: int, every_s: float, requests: int = 0, request_every_s: float = 0) -> Took:
        """Texts at their pace, and so many requests with images at theirs meanwhile."""
        return self._carry(count, requests, "texts", count, every_s, requests, request_every_s)[1]

    def ticks(self, periods: int, every_s: float, *, loaded: bool) -> list[list[float]]:
        """By how many ms each tick of the frontend's event loop was late, period by period."""
        late = self._carry(0, periods if loaded else 0, "ticks", periods, every_s, loaded)[0]
        return [[seconds * 1e3 for seconds in period] for period in late]

    def _carry(self, texts: int, requests: int, *order: object) -> tuple[Any, Took]:
        self._engine.begin("expect", texts, requests)
        self._engine.finish()
        self._frontend.begin(*order)
        answer = self._frontend.finish()
        took = self._engine.finish()
        return answer, Took(*([ns / 1e6 for ns in kind] for kind in took))

    def close(self) -> None:
        """Both ends closed in order."""
        self._frontend.close()
        self._engine.close()


@contextmanager
def running(way: str) -> Iterator[Service]:
    """A service that goes this way. Raises `FileNotFoundError` where its environment is missing, and `Failure`."""
    python = WAYS[way].python
    if not python.exists():
        raise FileNotFoundError(f"not installed: there is no {python.relative_to(ROOT)}")
    address = sockets.address()
    with ExitStack() as stack:
        ends = []
        for name in ("engine", "frontend"):
            ends.append(End(name, way, address))
            stack.callback(ends[-1].end)
        engine, frontend = ends
        for end in ends:
            end.finish(START_S)
        service = Service(frontend, engine)
        yield service
        service.close()
