"""Serving a scenario with real vLLM, in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.support import segment_names

HERE = Path(__file__).parent
TIMEOUT_S = 400.0
ENVIRONMENT = {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
SCENARIOS = {
    "off": {"SHMTRANSPORT_ENABLE": "0"},
    "on": {},
    "full": {"SHMTRANSPORT_CAPACITY": "32MB", "SHMTRANSPORT_SEGMENT": "32MB"},
    "alone": {"VLLM_WORKER_MULTIPROC_METHOD": "spawn"},  # the plugin in the frontend only
}


class Served(NamedTuple):
    """What one scenario left behind."""

    result: dict[str, Any]
    """What offline.py wrote."""
    decoded: dict[str, dict[str, Any]]
    """What the EngineCore saw, by request id (recorder.py)."""
    log: str
    left: set[str]
    """Segments in /dev/shm that were not there before."""


def make_checkpoint(folder: Path) -> Path:
    """A LLaVA of a few MB whose images are 9.6 MB of pixels, with seeded weights; SHMTRANSPORT_TEST_CHECKPOINT
    names one that is there already."""
    made = os.environ.get("SHMTRANSPORT_TEST_CHECKPOINT")
    if made is not None:
        return Path(made)
    subprocess.run([sys.executable, str(HERE / "tiny_llava.py"), str(folder)], check=True, timeout=TIMEOUT_S)
    return folder


def make_recorder(folder: Path) -> Path:
    """A folder for PYTHONPATH from which vLLM loads recorder.py as one of its plugins."""
    (folder / "shmtransport_test_recorder.py").write_text((HERE / "recorder.py").read_text())
    facts = folder / "shmtransport_test_recorder-0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: shmtransport-test-recorder\nVersion: 0\n")
    (facts / "entry_points.txt").write_text("[vllm.general_plugins]\nrecorder = shmtransport_test_recorder:register\n")
    return folder


def serve(scenario: str, checkpoint: Path, recorder: Path, folder: Path) -> Served:
    """Runs offline.py; its log is shown if it fails."""
    search_path = [str(recorder), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {
        **os.environ,
        **ENVIRONMENT,
        **SCENARIOS[scenario],
        "SHMTRANSPORT_TEST_RECORD": str(folder / "record"),
        "PYTHONPATH": os.pathsep.join(search_path),
    }
    before = segment_names()
    command = [sys.executable, str(HERE / "offline.py"), str(checkpoint), str(folder / "result"), scenario]
    with (folder / "log").open("w") as log:
        ended = subprocess.run(
            command, env=environment, stdout=log, stderr=subprocess.STDOUT, timeout=TIMEOUT_S, cwd=folder, check=False
        )
    text = (folder / "log").read_text()
    if ended.returncode:
        pytest.fail(f"offline.py {scenario} ended with {ended.returncode}\n{text[-6000:]}", pytrace=False)
    lines = [json.loads(line) for line in (folder / "record").read_text().splitlines()]
    return Served(
        json.loads((folder / "result").read_text()),
        {line["request_id"]: line for line in lines},
        text,
        segment_names() - before,
    )
