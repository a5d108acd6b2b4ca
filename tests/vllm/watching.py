"""The engine client of an ``LLM``, watched from outside: what it is given, and how many bytes it sends."""

import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from vllm import LLM

from shmtransport.demo_vllm.recorder import digest, pixel_digests

JOIN_TIMEOUT_S = 60.0


@cache
def staging_times() -> list[float]:
    """How long each call of the plugin's `staging.stage` took in this process, in seconds, from here on."""
    staging = sys.modules["shmtransport.adapters.vllm.staging"]
    stage = staging.stage
    seconds: list[float] = []

    def timed(*args: Any) -> None:
        begin = time.monotonic()
        stage(*args)
        seconds.append(time.monotonic() - begin)

    vars(staging)["stage"] = timed
    return seconds


class Frontend:
    """Watches two methods on the objects themselves."""

    def __init__(self, llm: LLM) -> None:
        self.client: Any = llm.llm_engine.engine_core
        self.link = vars(self.client).get("_shmtransport_link")
        self.requests: dict[str, dict[str, Any]] = {}
        self.digests = True
        self.staged_s = [0.0] if self.link is None else staging_times()
        """How long each staging took; 0 with the plugin off."""
        self._encoded_nbytes = 0
        self._known: dict[str, str] = {}
        self._watch()

    def _watch(self) -> None:
        add, encode = self.client.add_request, self.client.encoder.encode

        def add_request(request: Any) -> None:
            noted = self._noted(request)
            self.requests[request.request_id] = noted
            noted["sent_s"] = time.monotonic()
            add(request)
            noted["wire_nbytes"] = self._encoded_nbytes

        def counted(message: Any) -> Any:
            parts = encode(message)
            self._encoded_nbytes = sum(memoryview(part).nbytes for part in parts)
            return parts

        self.client.add_request = add_request
        self.client.encoder.encode = counted

    def _noted(self, request: Any) -> dict[str, Any]:
        """Of the images that are sent, and of all that the request has, the digests of their pixels: those that
        vLLM has in its cache were sent before."""
        features = request.mm_features or ()
        sent = [feature for feature in features if feature.data is not None]
        noted: dict[str, Any] = {
            "images": len(sent),
            "pixels_nbytes": [nbytes_of(feature.data) for feature in sent],
            "digests": [],
            "all_digests": [],
            "prompt_embeds": None,
        }
        if self.digests:
            noted["digests"] = pixel_digests([feature.data for feature in sent])
            self._known |= zip((feature.mm_hash for feature in sent), noted["digests"], strict=True)
            noted["all_digests"] = [self._known[feature.mm_hash] for feature in features]
            noted["prompt_embeds"] = None if request.prompt_embeds is None else digest(request.prompt_embeds)
        return noted

    @contextmanager
    def noting(self) -> Iterator[list[str]]:
        """The ids of the requests that are given to the client meanwhile, when it ends."""
        known = set(self.requests)
        ids: list[str] = []
        yield ids
        ids += [name for name in self.requests if name not in known]

    def wait_for_the_engine_to_join(self) -> None:
        """If the plugin is on: what is sent before goes inline."""
        deadline = time.monotonic() + JOIN_TIMEOUT_S
        while self.link is not None and not all(self.link.peers.values()):
            if time.monotonic() > deadline:
                raise TimeoutError("the engine did not join")
            time.sleep(0.01)

    @property
    def ring(self) -> Any:
        """The ring, or None."""
        return None if self.link is None else self.link.consumer.ring

    def returned(self) -> int:
        """How many tensors of outputs have come by handle."""
        returns = None if self.link is None else self.link._returns
        readers = [] if returns is None else list(returns.rings._readers.values())
        return sum(process.opened for reader in readers for process in reader.statistics().processes)

    def written(self) -> dict[str, Any]:
        """What the tests look at."""
        return {"requests": self.requests, "ring": statistics_of(self.ring), "returned": self.returned()}


def nbytes_of(item: Any) -> int:
    """Of an item's pixels, as they are to be sent."""
    return sum(item[name].data.nbytes for name in item if name.startswith("pixel_values"))


def statistics_of(ring: Any) -> dict[str, Any] | None:
    """What went through the ring until now, and who maps it how."""
    if ring is None:
        return None
    found = ring.statistics()
    return {
        "id": ring.id,
        "writes": found.writer.writes,
        "shared": found.writer.shared,
        "opened": {process.name: process.opened for process in found.processes[1:]},
        "inline": found.inline,
        "leased_nbytes": {process.name: process.leased_nbytes for process in found.processes},
        "mapped": {process.name: permissions(process.pid, ring.id) for process in found.processes},
    }


def permissions(pid: int, ring_id: str) -> list[str]:
    """With which a process maps the data segments of a ring, each kind once."""
    name = re.compile(rf"shmt-\d+-{ring_id}-[1-9]")  # 0 is the control segment
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return sorted({line.split()[1] for line in lines if name.search(line)})
