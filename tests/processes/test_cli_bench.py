"""`shmtransport bench`: every byte checked, nothing left, and a verdict that follows from the figures."""

import json
import re

import pytest

from shmtransport.cli.bench import _verdict
from shmtransport.cli.racing import LEAST_TURNS, PAYLOADS, Report, Row
from shmtransport.demo.report import Machine
from tests.support import run_python, running_python, with_shared_memory

pytestmark = pytest.mark.timeout(180)

MAIN = "from shmtransport.__main__ import main; main()"
WAYS = ["shmtransport", "zmq-multipart", "pickle"]


def test_each_payload_goes_each_way_and_every_byte_is_right() -> None:
    report = json.loads(run_python(MAIN, "bench", "--seconds", "0", "--json", timeout_s=120.0).stdout)
    assert (report["verified"], report["leaked_nbytes"], report["left_out"]) == (True, 0, [])
    assert [(row["payload"], row["transport"]) for row in report["rows"]] == [
        (payload.name, way) for payload in PAYLOADS for way in WAYS
    ]
    assert all(row["turns"] == LEAST_TURNS and row["seconds"] > 0 for row in report["rows"])
    assert all(row["wire_nbytes"] < 2000 for row in report["rows"] if row["transport"] == WAYS[0])
    assert all(row["wire_nbytes"] > row["payload_nbytes"] for row in report["rows"] if row["transport"] != WAYS[0])


def test_what_does_not_fit_is_left_out_and_named() -> None:
    with running_python(
        MAIN,
        *("bench", "--seconds", "0"),
        prefix=with_shared_memory("size=64m"),
        environment={"SHMTRANSPORT_BACKING": "posix"},
    ) as ran:
        stdout, stderr = ran.communicate(timeout=120)
    assert (ran.returncode, stderr) == (0, "")
    assert "\x1b" not in stdout
    assert max(map(len, stdout.splitlines())) <= 80
    assert "left out, as there is too little memory: 10 x 9.6 MB" in stdout
    assert re.search(r"shmtransport +[█#]+ +[\d.]+ ms +[\d.]+ GB/s", stdout)


def of(payload: str, *ratios: float) -> list[Row]:
    return [
        Row(way, payload, payload_nbytes=1, wire_nbytes=1, seconds=ratio, turns=3, ratio_to_shmtransport=ratio)
        for way, ratio in zip(WAYS, (1.0, *ratios), strict=True)
    ]


def verdict_on(*rows: list[Row], verified: bool = True, leaked_nbytes: int = 0) -> str:
    report = Report(verified, leaked_nbytes, [], [row for each in rows for row in each], Machine.here())
    return _verdict(report)


def test_the_verdict_follows_from_the_figures() -> None:
    small, large = of("64 KB", 0.7, 3.0), of("9.6 MB", 5.0, 30.0)
    assert verdict_on(small, large).startswith("it pays from 9.6 MB on")
    assert "5.0 times as long at 9.6 MB" in verdict_on(small, large)
    assert verdict_on(of("64 KB", 2.0, 3.0), large).startswith("it pays from 64 KB on")
    assert "does not pay" in verdict_on(large, of("10 x 9.6 MB", 1.05, 30.0))
    assert "wrong" in verdict_on(large, verified=False)
    assert "7 bytes are left" in verdict_on(large, leaked_nbytes=7)
