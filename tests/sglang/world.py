"""Processes of real SGLang that a test talks to: a tokenizer, ranks, perhaps a controller between them."""

import contextlib
import json
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.processes.children import Child, child
from tests.support import wait_until

START_S: Final = 100.0
"""SGLang's imports take ten seconds of a core in each process."""
PLUGINS: Final = "from sglang.srt.plugins import load_plugins; load_plugins()"
SETTINGS: Final = {"SHMTRANSPORT_CAPACITY": "96MiB", "SHMTRANSPORT_SEGMENT": "32MiB", "SHMTRANSPORT_BACKING": "memfd"}
CONFIG: Final = {
    "architectures": ["Qwen2VLForConditionalGeneration"],
    "model_type": "qwen2_vl",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "vocab_size": 1000,
    "max_position_embeddings": 512,
    "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
    "vision_config": {"depth": 1, "embed_dim": 32, "hidden_size": 64, "num_heads": 2, "in_chans": 3, "patch_size": 14},
    "torch_dtype": "float32",
}
"""Of a model that is never loaded: SGLang's settings ask for one."""


def write_config(folder: Path) -> None:
    """Makes ``folder`` what SGLang takes for a model's."""
    (folder / "config.json").write_text(json.dumps(CONFIG))


@dataclass
class World:
    """A tokenizer named ``tokenizer`` in its process, and each rank named ``rank`` in its own."""

    tokenizer: Child
    ranks: list[Child]
    others: dict[str, Child] = field(default_factory=dict)

    def send(self, rid: str, features: str) -> Any:
        """A request with ``features``, an expression for the tokenizer's process; what stood in it for each."""
        return self.tokenizer.ask(f"tokenizer.send(tokenizer.request({rid!r}, {features}))")

    def await_request(self, rid: str) -> None:
        """Until every rank has it."""
        for rank in self.ranks:
            wait_until(lambda rank=rank: rank.ask("rid in rank.requests", rid=rid))  # type: ignore[misc]

    def digests(self, rid: str) -> list[Any]:
        """What each rank has in its hands."""
        return [
            rank.ask("rank.error(rid) or [digest(each) for each in rank.tensors(rid)]", rid=rid) for rank in self.ranks
        ]

    def release(self, rid: str) -> None:
        """The request ends everywhere."""
        for rank in self.ranks:
            rank.run("rank.release(rid)", rid=rid)
        self.tokenizer.run("tokenizer.finish(rid)", rid=rid)

    def holder(self, rid: str) -> int:
        """The number of the first rank that has a request; only one has, of ranks in replicas of their own."""
        got: list[int] = []

        def there() -> bool:
            got.extend(number for number, rank in enumerate(self.ranks) if rank.ask("rid in rank.requests", rid=rid))
            return bool(got)

        wait_until(there)
        return got[0]

    def join(self) -> None:
        """Requests that go SGLang's own way, until the ranks have joined."""
        for number in range(10):
            self.send(f"first {number}", "[pixels(0)]")
            wait_until(lambda: self.tokenizer.ask("tokenizer.ring is not None"))
            self.holder(f"first {number}")
            if self.tokenizer.ask("tokenizer.is_on"):
                self.clear()
                return
        raise AssertionError("the ranks do not join")

    def clear(self) -> None:
        """Every request ends."""
        for rank in self.ranks:
            rank.run("rank.requests.clear(); gc.collect()")
        self.tokenizer.run("tokenizer.manager.rid_to_state.clear(); gc.collect()")

    def used_nbytes(self) -> int:
        """In blocks that somebody holds."""
        used: int = self.tokenizer.ask("tokenizer.ring.statistics().used_nbytes")
        return used


@contextlib.contextmanager
def world(
    folder: Path,
    *,
    ranks: int,
    replicas: int = 1,
    others: Mapping[str, str] | None = None,
    started_by: str = "rank.start()",
) -> Iterator[World]:
    """``ranks`` of each of ``replicas``, with a controller if there are several; ``others`` are statements that
    processes of these names run first."""
    write_config(folder)
    addresses = [f"ipc://@shmtransport-sglang-{secrets.token_hex(8)}" for _ in range(replicas + 1)]
    parallel = {"tp_size": ranks, "dp_size": replicas}
    arguments = {"folder": str(folder), "addresses": addresses, "parallel": parallel}
    with contextlib.ExitStack() as stack:
        started: list[Child] = []

        def start(statements: str, **names: object) -> Child:
            process = stack.enter_context(child("unrelated", environment=SETTINGS))
            process.start("run", statements, **arguments, **names)
            started.append(process)
            return process

        made = f"{PLUGINS}; from tests.sglang.tokenizer import Tokenizer"
        tokenizer = start(f"{made}; tokenizer = Tokenizer(folder, addresses[0], **parallel)")
        made = f"{PLUGINS}; from tests.sglang.rank import Rank"
        places = [(replica, number) for replica in range(replicas) for number in range(ranks)]
        members = [
            start(
                f"{made}; rank = Rank(folder, address, number, meeting, replica, **parallel); {started_by}",
                address=addresses[replica + 1 if replicas > 1 else 0],
                number=number,
                meeting=str(folder / f"meeting {replica}"),
                replica=replica,
            )
            for replica, number in places
        ]
        if replicas > 1:
            made = f"{PLUGINS}; from tests.sglang.controller import Controller"
            start(f"{made}; controller = Controller(folder, addresses[0], addresses[1:])")
        extra = {name: start(statements) for name, statements in (others or {}).items()}
        for process in started:
            process.answer(START_S)
        yield World(tokenizer, members, extra)
