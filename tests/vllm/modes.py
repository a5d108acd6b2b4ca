"""vLLM set in other ways, one ``LLM`` after the other in the same frontend process, as offline.py for one.

    python -m tests.vllm.modes CHECKPOINT RESULT.json MODE...

Each mode is asked what offline.py asks first. Between two modes the engine is gone, and what it left is noted: vLLM
kills an engine that does not end within 5 s, so its worker may end a little later, and a sweep removes the names then.
"""

import gc
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from vllm.config import PoolerConfig

from shmtransport import sweep
from shmtransport.demo_vllm.recorder import digest
from tests.support import segment_names, wait_until
from tests.vllm.asking import Asker, ask_the_same, photographs, prompt

ENVIRONMENT = {
    "torch_shm": {"VLLM_WORKER_MULTIPROC_METHOD": "spawn"},
    "two_ranks": {"VLLM_CPU_OMP_THREADS_BIND": "0|1"},
    "engine_without_plugin": {"SHMTRANSPORT_ENABLE": "0"},
}
"""Of the processes that vLLM starts for a mode. The frontend has loaded the plugin, or not, with its first mode."""

MODES: dict[str, dict[str, Any]] = {
    "default": {},
    "no_cache_arena": {"mm_processor_cache_gb": 0, "enable_shm_tensor_arena": True},
    "cache_shm": {"mm_processor_cache_gb": 2, "mm_processor_cache_type": "shm"},
    "torch_shm": {"mm_tensor_ipc": "torch_shm"},
    "two_ranks": {"tensor_parallel_size": 2},
    "engine_without_plugin": {},
    "pooling": {"runner": "pooling", "convert": "embed", "pooler_config": PoolerConfig(task="token_embed")},
}
EMBEDDED = 8
"""Requests for embeddings: the first outputs come before the client has joined the engine's ring."""
LEAVE_S = 30.0


@contextmanager
def environment(more: dict[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ |= more
    try:
        yield
    finally:
        os.environ.clear()
        os.environ |= before


def embed(asker: Asker) -> dict[str, Any]:
    """An embedding of each token of requests of three images, as SHA-256, and how large each was."""
    found = []
    for number in range(EMBEDDED):
        (output,) = asker.llm.encode([prompt(photographs(20 + number)[:3])], pooling_task="token_embed", use_tqdm=False)
        found.append((digest(output.outputs.data), output.outputs.data.nbytes))
    return {"embeddings": found}


def serve(checkpoint: str, mode: str) -> dict[str, Any]:
    with environment(ENVIRONMENT.get(mode, {})):
        asker = Asker(checkpoint, **MODES[mode])
    if mode == "engine_without_plugin":
        asker.ask("one", photographs()[:1])
        return asker.written()
    asker.frontend.wait_for_the_engine_to_join()
    if mode == "pooling":
        return {**embed(asker), **asker.written()}
    ask_the_same(asker)
    return asker.written()


def nothing_is_left() -> bool:
    """After a sweep, as the next start would do it."""
    sweep()
    return not segment_names()


def main() -> None:
    checkpoint, result, *modes = sys.argv[1:]
    written = {}
    for mode in modes:
        written[mode] = serve(checkpoint, mode)
        gc.collect()
        with suppress(AssertionError):
            wait_until(nothing_is_left, LEAVE_S)
        written[mode]["left"] = sorted(segment_names())
    Path(result).write_text(json.dumps(written))


if __name__ == "__main__":
    main()
