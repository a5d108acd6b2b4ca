"""Serving with real vLLM, in a process of its own, with a recorder in all of vLLM's processes."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from shmtransport.demo_vllm import recorder as recording
from shmtransport.demo_vllm import records
from shmtransport.demo_vllm.records import Decoded, Passed, Received
from tests.support import ROOT, segment_names

TIMEOUT_S = 400.0
ENVIRONMENT = {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
SCENARIOS = {
    "off": {"SHMTRANSPORT_ENABLE": "0"},
    "on": {},
    "ample": {"SHMTRANSPORT_CAPACITY": "4GiB"},
    "full": {"SHMTRANSPORT_CAPACITY": "32MB", "SHMTRANSPORT_SEGMENT": "32MB"},
}


class Run(NamedTuple):
    """One process: which program, what it serves, the plugin as a scenario says, and the program's last arguments."""

    program: str
    family: str
    scenario: str
    arguments: tuple[str, ...] = ()


RUNS = {
    "off": Run("offline", "llava", "off"),
    "on": Run("offline", "llava", "on"),
    "modes off": Run("modes", "llava", "off", ("two_ranks", "pooling")),
    "modes on": Run("modes", "llava", "on", ("no_cache_arena", "cache_shm", "two_ranks", "pooling")),
    "modes full": Run("modes", "llava", "full", ("default", "torch_shm", "engine_without_plugin")),
    "qwen2_5_vl off": Run("families", "qwen2_5_vl", "off", ("qwen2_5_vl",)),
    "qwen2_5_vl on": Run("families", "qwen2_5_vl", "on", ("qwen2_5_vl",)),
    "gemma3 off": Run("families", "gemma3", "off", ("gemma3",)),
    "gemma3 on": Run("families", "gemma3", "ample", ("gemma3",)),
}


class Served(NamedTuple):
    """What one run left behind."""

    result: dict[str, Any]
    """What the program wrote."""
    decoded: dict[str, Decoded]
    """What the EngineCore got, by request id."""
    passed: list[Passed]
    """What it sent to its workers."""
    received: dict[int, dict[str, Received]]
    """What each worker got: by rank, then by request id."""
    log: str
    left: set[str]
    """Segments in /dev/shm that were not there before."""


def make_checkpoint(folder: Path, family: str = "llava") -> Path:
    """A checkpoint of a few MB with seeded weights. SHMTRANSPORT_TEST_CHECKPOINT names a LLaVA that is there
    already, SHMTRANSPORT_TEST_CHECKPOINT_GEMMA3 and ..._QWEN2_5_VL the others."""
    variable = "SHMTRANSPORT_TEST_CHECKPOINT" + ("" if family == "llava" else f"_{family.upper()}")
    made = os.environ.get(variable)
    if made is not None:
        return Path(made)
    llava = ["shmtransport.demo_vllm.checkpoint"]
    module = llava if family == "llava" else ["tests.vllm.checkpoints", family]
    subprocess.run([sys.executable, "-m", *module, str(folder)], check=True, timeout=TIMEOUT_S, cwd=ROOT)
    return folder


def make_recorder(folder: Path) -> Path:
    """A folder for PYTHONPATH from which vLLM loads the recorder as one of its plugins."""
    return recording.install(folder)


def serve(run: Run, checkpoint: Path, recorder: Path, folder: Path) -> Served:
    """Runs its program; the log is shown if that fails."""
    result, record, log = folder / "result", folder / "record", folder / "log"
    environment = {
        **recording.environment(recorder, record, digests=True),
        **ENVIRONMENT,
        **SCENARIOS[run.scenario],
    }
    before = segment_names()
    command = [sys.executable, "-m", f"tests.vllm.{run.program}", str(checkpoint), str(result), *run.arguments]
    with (
        log.open("w") as printed,
        subprocess.Popen(
            command, env=environment, stdout=printed, stderr=subprocess.STDOUT, cwd=ROOT, start_new_session=True
        ) as process,
    ):
        try:
            process.wait(TIMEOUT_S)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    left = segment_names() - before
    text = log.read_text()
    if process.returncode:
        pytest.fail(f"{run.program} ended with {process.returncode}\n{text[-6000:]}", pytrace=False)
    events = records.read(record)
    received: dict[int, dict[str, Received]] = {}
    for event in records.of_kind(events, Received):
        received.setdefault(event.rank, {}).update(dict.fromkeys(event.request_ids, event))
    return Served(
        json.loads(result.read_text()),
        {event.request_id: event for event in records.of_kind(events, Decoded)},
        list(records.of_kind(events, Passed)),
        received,
        text,
        left,
    )
