"""Where vLLM looks at the rings: in a thread of its own, not on the event loop of the requests.

What a served model says at /metrics is in test_server.py, where servers are.
"""

from pathlib import Path

import pytest

from tests.support import run_python

pytestmark = pytest.mark.timeout(200)

SCRAPE = """
import asyncio, os, sys
if sys.argv[1] == "several":
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = sys.argv[2]
from fastapi import FastAPI
from fastapi.testclient import TestClient
from vllm.entrypoints.serve.instrumentator.metrics import attach_router
from shmtransport import Ring, observing
from shmtransport.adapters.vllm import metrics, register

register()
where = []
rings = observing.rings

def noted(*wanted):
    where.append("event loop" if asyncio._get_running_loop() else "thread")
    return rings(*wanted)

observing.rings = noted
app = FastAPI()
attach_router(app)
with Ring.create("4MiB", segment="1MiB") as ring, TestClient(app) as client:
    metrics.show(ring.id)
    where.clear()
    answer = client.get("/metrics")
    print(answer.text.count(f'shmtransport_capacity_bytes{{ring="{ring.id[:8]}"}}'), *where)
"""


@pytest.mark.parametrize("api_servers", ["one", "several"])
def test_a_scrape_looks_once_and_not_on_the_event_loop(api_servers: str, tmp_path: Path) -> None:
    ended = run_python(SCRAPE, api_servers, tmp_path, timeout_s=90.0)
    assert ended.stdout.splitlines()[-1] == "1 thread"
