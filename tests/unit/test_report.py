"""The report of the benchmarks says what bench/results/ holds, and nothing is lost or made up on the way."""

import json
import subprocess
import sys
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from bench import record, report
from bench.aims import lines
from tests.support import ROOT

HAS_MATPLOTLIB = find_spec("matplotlib") is not None

Row = dict[str, Any]


def compared(rival: str, payload: str, milliseconds: float, **others: Any) -> Row:
    nbytes = {"64 KB": 65536, "1 MB": 1 << 20, "9.6 MB": 9633792, "10 x 9.6 MB": 96337920, "482 MB": 481689600}[payload]
    return {
        "rival": rival,
        "payload": payload,
        "payload_nbytes": nbytes,
        "tensors": 10 if payload.startswith("10 x") else 1,
        "median_ms": milliseconds,
        "p99_ms": milliseconds * 1.5,
        "ratio_to_shmtransport": milliseconds / 2,
        "shmtransport_median_ms": 2.0,
        **others,
    }


def brought(way: str, images: int, seconds: float, ratio: float) -> Row:
    return {
        "way": way,
        "images": images,
        "frontend_seconds": seconds / 2,
        "engine_seconds": seconds / 3,
        "transport_seconds": seconds,
        "ratio_to_handle": ratio,
        "wire_nbytes": 12345,
        "frontend_growth_nbytes": 0,
        "engine_growth_nbytes": 5_000_000,
        "cpu_seconds": seconds,
        "published_seconds": 269.967 if way == "v0.8.3" else None,
    }


def copied(way: str, gbps: float) -> Row:
    ratio = {"ratio_to_pinned": gbps / 50}
    return {"what": "host to device", "device": "a card", "payload": "482 MB", "way": way, "gbps": gbps, **ratio}


def served(images: int, plugin: bool, request_seconds: float, transport_share: float) -> Row:
    facts = {"vllm": "0.26.0", "device": "a card", "images": images, "plugin": plugin, "payload_nbytes": 1}
    times = {"hop1_seconds": 0.25, "request_seconds": request_seconds}
    return {**facts, **times, "transport_share": transport_share, "verified": True}


ROWS: dict[str, list[Row]] = {
    "compare": [
        compared("shmtransport", "9.6 MB", 2.0),
        compared("floor", "9.6 MB", 1.8),
        compared("iceoryx2", "9.6 MB", 2.4, version="0.10.0"),
        compared("iceoryx2", "10 x 9.6 MB", 24.0),
        compared("pickle over ZMQ", "10 x 9.6 MB", 88.0),
        compared("bare message", "64 KB", 1.98),
        {**compared("Ray", "9.6 MB", 0.0), "median_ms": None, "ratio_to_shmtransport": None, "reason": "no wheel"},
    ],
    "in_place": [{"payload": "1 MB", "ratio_to_1_mb": 1.0}, {"payload": "482 MB", "ratio_to_1_mb": 1.1}],
    "issue_16461": [
        brought("v0.8.3", 100, 4.4, 44.0),
        brought("vLLM today", 100, 0.4, 4.0),
        brought("by handle", 100, 0.1, 1),
    ],
    "interference": [
        {"experiment": "tail", "subject": "shmtransport", "load_mb": 96, "p99_us": 61.25},
        {"experiment": "tail", "subject": "vLLM", "load_mb": 96, "p99_us": 12345.6, "late": True},
        {"experiment": "readers", "subject": "shmtransport", "readers": 8, "gbps": 9.5},
    ],
    "gpu": [copied("pinned", 50.0), copied("ring", 48.0), copied("unregistered ring", 8.0)],
    "gpu_vllm_tp2": [served(10, False, 2.0, 0.25), served(10, True, 1.5, 0.02)],
}
PROGRAMS = {"gpu_vllm_tp2": "gpu_vllm"}
"""Of those results that are not called as the program is."""


@pytest.fixture
def results(tmp_path: Path) -> Path:
    facts = {"machine": "a machine", "date": "2026-01-02", "versions": {"torch": "2.0"}}
    for name, rows in ROWS.items():
        command = f"bench/{PROGRAMS.get(name, name)}.py --json"
        (tmp_path / f"{name}.json").write_text(record.as_text({**facts, "command": command}, rows))
    return tmp_path


def markdown(results: Path) -> str:
    return report.pages(results, plots=False)["benchmarks.md"]


def test_what_is_committed_is_what_the_committed_results_give() -> None:
    made = report.pages(plots=HAS_MATPLOTLIB)
    assert {name: (ROOT / "docs" / name).read_text() for name in made} == made


def test_every_plot_that_the_committed_report_shows_is_there() -> None:
    page = ROOT / "docs" / "benchmarks.md"
    shown = [part.split('"')[0] for part in page.read_text().split('src="')[1:]] if page.exists() else []
    assert [name for name in shown if not (ROOT / "docs" / name).exists()] == []


def test_without_results_nothing_is_written(tmp_path: Path) -> None:
    assert report.pages(tmp_path, plots=HAS_MATPLOTLIB) == {}


def test_the_report_says_the_machine_the_date_the_versions_and_how_to_run_it_again(results: Path) -> None:
    text = markdown(results)
    assert text.count("a machine; 2026-01-02; torch 2.0. `python bench/") == len(ROWS)
    assert text.count("`python bench/gpu_vllm.py --json`") == 1


def test_what_a_program_says_first_comes_before_its_figures(results: Path) -> None:
    text = markdown(results)
    section = text[text.index("## One request from process to process") :]
    assert section.index("* Timed is one request") < section.index("| iceoryx2 |")


def test_what_a_program_says_first_is_found_by_the_command(results: Path) -> None:
    text = markdown(results)
    section = text[text.index("## Real vLLM on two GPUs") :]
    assert section.index("* Gemma 3 in the shape") < section.index("### a card, vLLM 0.26.0")
    assert "| 10 | yes | 1 | 250 | 1,500 | 2.0 % | yes |\n" in section


def test_a_rival_that_was_not_measured_is_named_with_the_reason(results: Path) -> None:
    assert "* Ray: no wheel\n" in markdown(results)


def test_rows_of_any_kind_become_a_table_an_experiment(results: Path) -> None:
    text = markdown(results)
    assert "### tail\n\n| subject | load mb | p99 us | late |\n" in text
    assert "| shmtransport | 96 | 61.25 |  |\n| vLLM | 96 | 12,346 | yes |\n" in text
    assert "### readers\n\n| subject | readers | gbps |\n| --- | --- | --- |\n| shmtransport | 8 | 9.5 |\n" in text


def test_remarks_stand_in_the_report_as_they_are(results: Path) -> None:
    (results / "remarks.md").write_text("The floor is *low*.\n")
    assert "\nThe floor is *low*.\n" in markdown(results)


def test_an_aim_is_reached_or_missed_by_what_was_measured_and_left_out_without() -> None:
    assert {words: (measured, reached) for words, measured, reached in lines(ROWS)} == {
        "9.6 MB: at most 1.15 times the floor": ("1.11", "reached"),
        "64 KB: at most 30 us more than a bare message": ("20 us", "reached"),
        "9.6 MB: iceoryx2 takes at least 1.3 times as long": ("1.2", "**missed**"),
        "10 x 9.6 MB: pickle over ZMQ takes at least 30 times as long": ("44", "reached"),
        "in place: 482 MB take at most 1.2 times as long as 1 MB": ("1.1", "reached"),
        "100 images: v0.8.3 takes at least 40 times as long as by handle": ("44", "reached"),
        "100 images: vLLM today takes at least 5 times as long as by handle": ("4", "**missed**"),
        "to the GPU, 482 MB: at least 0.97 of pinned memory's rate": ("0.96", "**missed**"),
        "to the GPU, 482 MB: at least 6 times the unregistered ring's": ("6", "reached"),
        "vLLM on two GPUs, 10 images: transport at most 3 % of the request": ("2 %", "reached"),
        "vLLM on two GPUs, 10 images: the request is shorter by at least 12 %": ("25 %", "reached"),
        "every rival, 1 MB and more: takes longer": ("1.2", "reached"),
    }


def test_a_recorded_file_has_a_row_a_line_and_six_digits_a_figure(results: Path) -> None:
    text = record.as_text({"machine": "m"}, [{"median_ms": 1.23456789, "per_writer": [0.1 + 0.2], "n": 3}])
    assert text == '{\n"machine": "m",\n"rows": [\n{"median_ms": 1.23457, "per_writer": [0.3], "n": 3}\n]}\n'
    assert json.loads(text)["rows"][0]["n"] == 3


def test_a_report_that_is_not_up_to_date_is_found() -> None:
    checked = subprocess.run(
        [sys.executable, "-c", CHECK_AFTER_CHANGE], cwd=ROOT, capture_output=True, text=True, timeout=50, check=False
    )
    assert (checked.returncode, checked.stderr) == (1, "docs/benchmarks.md is not what bench/results gives\n")


CHECK_AFTER_CHANGE = """
import sys
from bench import report
report.pages = lambda: {"benchmarks.md": "other words"}
sys.argv[1:] = ["--check"]
sys.exit(report.main())
"""

if HAS_MATPLOTLIB:
    from bench import plots

    def test_plots_are_the_same_bytes_each_time() -> None:
        first = plots.drawn(ROWS)
        assert sorted(first) == ["issue-16461-dark", "issue-16461-light", "time-dark", "time-light"]
        assert plots.drawn(ROWS) == first
        assert "date" not in first["time-light"]

    def test_names_of_lines_are_moved_apart_and_keep_their_order() -> None:
        placed = plots.spread([0.5, 0.49, 0.99, 1.0, 0.1], 0.1)
        assert sorted(range(5), key=placed.__getitem__) == [4, 1, 0, 2, 3]
        heights = sorted(placed)
        assert all(above - below >= 0.1 - 1e-9 for below, above in pairwise(heights))
        assert heights[-1] <= 1.0
        assert placed[4] == 0.1
