"""A writer with a device pool and its readers, processes of their own."""

import re
import textwrap
from collections.abc import Callable
from typing import Any, TypeAlias

from tests.processes.children import Child

REAL, PRETENDED = "real", "pretended"

PRELUDE = """
    import functools
    import msgspec
    import pytest
    from shmtransport import _core, cuda, device_tensors
    from tests.support import wait_until
    until = functools.partial(wait_until, timeout_s=20)
    if driver:
        from tests.cuda import pretending
        tell = pretending.pretend(driver)
        pretending.pretend_tensors()
        synchronize = lambda: None
    else:
        torch.zeros(1, device="cuda")
        synchronize = torch.cuda.synchronize

    def numbers(tensor):
        return tensor.cpu().tolist()
"""
WRITER = """
    ring = Ring.create(capacity="8MiB", segment="4MiB")
    pool = DevicePool.create(ring, "cuda:0", capacity="1MiB", **options)

    def used():
        return pool.room()[0]
"""

Spawn: TypeAlias = Callable[[str], Child]


class Pair:
    """A writer with a pool, and a reader."""

    def __init__(self, spawn: Spawn, options: dict[str, object]) -> None:
        self.writer = spawn("")
        self.writer.run(textwrap.dedent(WRITER), options=options)
        self.ring_id = self.writer.ask("ring.id")
        self.reader, self.peer_id = self.join(spawn)

    def join(self, spawn: Spawn) -> tuple[Child, str]:
        """One more reader, and its id."""
        reader = spawn("")
        reader.run("reader = Reader.join(ring_id)", ring_id=self.ring_id)
        return reader, reader.ask("reader.peer_id")

    def write(self, code: str) -> None:
        self.writer.run(textwrap.dedent(code))

    def send(self, expression: str, *peers: str) -> bytes:
        """The handle of a tensor of the writer's, for ``peers`` or the one reader."""
        wire: bytes = self.writer.ask(f"bytes(ring.share({expression}, peers))", peers=list(peers or (self.peer_id,)))
        return wire

    def refuses(self, expression: str, error: str, says: str = "", **names: Any) -> None:
        """As `refuses`, of the reader."""
        refuses(self.reader, expression, error, says, **names)

    def open(self, expression: str) -> None:
        """The reader opens it as ``there``."""
        self.reader.run("there = reader.open(wire)", wire=self.send(expression))


def refuses(process: Child, expression: str, error: str, says: str = "", **names: Any) -> None:
    """It raises that ``error`` there, in which the words of ``says`` follow one another."""
    code = f"with pytest.raises({error}, match=says):\n    {expression}"
    process.run(code, says=".*".join(map(re.escape, says.split(".*"))), **names)
