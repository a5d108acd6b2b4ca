"""Serving with real vLLM, in processes of their own, with a recorder in all of vLLM's processes.

Most of a run is one thread that imports and loads, so runs that are compared go side by side, each worker on a CPU of
its own; only one of them has the plugin on.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from shmtransport.demo_vllm import recorder as recording
from shmtransport.demo_vllm import records
from shmtransport.demo_vllm.records import Decoded, Passed, Received
from tests.support import ROOT, segment_names

TIMEOUT_S = 500.0
ENVIRONMENT = {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
CPUS = sorted(os.sched_getaffinity(0))
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
SIDE_BY_SIDE = (
    ("off", "on"),
    ("modes off", "modes on"),
    ("modes full",),
    ("qwen2_5_vl off", "qwen2_5_vl on"),
    ("gemma3 off", "gemma3 on"),
)
"""Names of runs."""


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


class Failed(NamedTuple):
    """What one run that did not end in order has to say, with the end of its log."""

    text: str


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


def binding(scenario: str) -> str:
    """The CPU of a worker where two programs are compared: by itself vLLM would take the same for both."""
    return str(CPUS[0] if scenario == "off" else CPUS[-1])


def serve(runs: Mapping[str, Run], checkpoint: Path, recorder: Path, folder: Path) -> dict[str, Served | Failed]:
    """Runs their programs side by side; what comes of each, by name."""
    before = segment_names()
    with ExitStack() as stack:
        programs = {
            name: stack.enter_context(_program(run, checkpoint, recorder, folder / name)) for name, run in runs.items()
        }
        deadline = time.monotonic() + TIMEOUT_S
        for program in programs.values():
            with suppress(subprocess.TimeoutExpired):
                program.wait(max(0.0, deadline - time.monotonic()))
    left = segment_names() - before
    return {
        name: _served(folder / name, left) if program.returncode == 0 else _failed(folder / name, program)
        for name, program in programs.items()
    }


@contextmanager
def _program(run: Run, checkpoint: Path, recorder: Path, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Killed with all that it has started if it still runs at the end."""
    folder.mkdir()
    environment = {
        **recording.environment(recorder, folder / "record", digests=True),
        **ENVIRONMENT,
        "VLLM_CPU_OMP_THREADS_BIND": binding(run.scenario),
        **SCENARIOS[run.scenario],
    }
    arguments = [str(checkpoint), str(folder / "result"), *run.arguments]
    command = [sys.executable, "-m", f"tests.vllm.{run.program}", *arguments]
    with (
        (folder / "log").open("w") as log,
        subprocess.Popen(
            command, env=environment, stdout=log, stderr=subprocess.STDOUT, cwd=ROOT, start_new_session=True
        ) as process,
    ):
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def _failed(folder: Path, program: subprocess.Popen[bytes]) -> Failed:
    return Failed(f"{folder.name} ended with {program.returncode}\n{(folder / 'log').read_text()[-6000:]}")


def _served(folder: Path, left: set[str]) -> Served:
    events = records.read(folder / "record")
    received: dict[int, dict[str, Received]] = {}
    for event in records.of_kind(events, Received):
        received.setdefault(event.rank, {}).update(dict.fromkeys(event.request_ids, event))
    return Served(
        json.loads((folder / "result").read_text()),
        {event.request_id: event for event in records.of_kind(events, Decoded)},
        list(records.of_kind(events, Passed)),
        received,
        (folder / "log").read_text(),
        left,
    )
