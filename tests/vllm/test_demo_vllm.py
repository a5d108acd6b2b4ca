"""``shmtransport demo-vllm``: what it prints, when it fails, and that it takes its vLLM along when it ends."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
from rich.console import Console
from typer.testing import CliRunner

from shmtransport.cli import app
from shmtransport.demo.report import Machine
from shmtransport.demo.room import Room
from shmtransport.demo_vllm import records, run
from shmtransport.demo_vllm.answers import Answer, Compared, control_differs, identical
from shmtransport.demo_vllm.messages import Measured
from shmtransport.demo_vllm.processes import ServingError, run_module
from shmtransport.demo_vllm.records import Decoded, Event, Passed, Received
from shmtransport.demo_vllm.report import Report, Row
from shmtransport.demo_vllm.settings import CACHE_NBYTES, IMAGE_NBYTES, Settings
from shmtransport.demo_vllm.table import render
from tests.support import ROOT, run_python, wait_until

pytestmark = pytest.mark.timeout(600)

COMMAND = "from shmtransport.__main__ import main; main()"
KEYS = (
    "plugin images payload_nbytes hop1_wire_nbytes hop2_wire_nbytes hop1_seconds hop2_enqueue_seconds "
    "hop2_receive_seconds request_seconds"
).split()


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    ran = run_python(COMMAND, "demo-vllm", "--images", "1,10", "--json", timeout_s=560.0)
    assert ran.stderr == ""
    assert ran.stdout.count("\n") == 1
    printed: dict[str, Any] = json.loads(ran.stdout)
    return printed


def moving_seconds(row: dict[str, Any]) -> float:
    return float(row["hop1_seconds"] + row["hop2_enqueue_seconds"] + row["hop2_receive_seconds"])


def test_both_give_the_same_answers_and_leave_nothing(report: dict[str, Any]) -> None:
    assert list(report) == ["identical", "control_differs", "leaked_nbytes", "rows"]
    assert (report["identical"], report["control_differs"], report["leaked_nbytes"]) == (True, True, 0)


def test_json_has_a_row_for_each_size_with_the_plugin_off_and_on(report: dict[str, Any]) -> None:
    asked = [(images, plugin) for images in (1, 10) for plugin in (False, True)]
    assert [(row["images"], row["plugin"]) for row in report["rows"]] == asked
    for row in report["rows"]:
        assert list(row) == KEYS
        assert row["payload_nbytes"] == row["images"] * IMAGE_NBYTES
        assert 0 < moving_seconds(row) < row["request_seconds"] < 60


def test_off_the_pixels_are_in_the_messages_of_both_hops_and_on_in_neither(report: dict[str, Any]) -> None:
    for row in report["rows"]:
        for hop in ("hop1_wire_nbytes", "hop2_wire_nbytes"):
            beside = row[hop] - (0 if row["plugin"] else row["payload_nbytes"])
            assert 0 < beside < 16 << 10


def test_both_hops_together_are_faster_with_the_plugin(report: dict[str, Any]) -> None:
    for off, on in zip(report["rows"][::2], report["rows"][1::2], strict=True):
        print(f"\n{on['images']} images: {moving_seconds(off) / moving_seconds(on):.1f} times as fast")
        assert moving_seconds(on) < moving_seconds(off)


def row(*, plugin: bool, images: int = 50, factor: float = 1.0) -> Row:
    nbytes = images * IMAGE_NBYTES
    wire_nbytes = 400 * images if plugin else nbytes
    return Row(plugin, images, nbytes, wire_nbytes, wire_nbytes, 0.4 * factor, 0.002 * factor, 0.4 * factor, 4.0)


def a_report(*, identical: bool = True, control_differs: bool = True, leaked_nbytes: int = 0) -> Report:
    rows = [row(plugin=plugin, images=images) for images in (1, 500) for plugin in (False, True)]
    return Report(identical, control_differs, leaked_nbytes, rows)


def test_the_table_is_plain_text_of_80_columns_in_a_pipe() -> None:
    console = Console(width=80, no_color=True)
    with console.capture() as captured:
        console.print(render(a_report(), "0.32.0+cpu", Machine.here()))
    lines = captured.get().splitlines()
    assert not any("\x1b" in line or "…" in line for line in lines)
    assert [line.split()[:2] for line in lines if line.startswith("    plugin")] == 2 * [
        ["plugin", "on"],
        ["plugin", "off"],
    ]
    assert sum("1.0 ×" in line for line in lines) == 2
    assert [line for line in lines if "✓" in line] == [
        "✓ the same answers with the plugin off and on, bit by bit",
        "✓ one image replaced gives another answer",
        "✓ nothing is left in /dev/shm",
    ]


@pytest.mark.parametrize(
    ("failed", "says"),
    [
        (a_report(identical=False), "✗ the answers differ"),
        (a_report(control_differs=False), "✗ the answers do not depend on the images"),
        (a_report(leaked_nbytes=4096), "✗ 4,096 bytes are left"),
    ],
)
def test_what_went_wrong_is_said_and_is_the_exit_status(
    failed: Report, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shmtransport.demo_vllm.command.run", lambda *_: run.Outcome(failed, "0", ["it was off"]))
    result = CliRunner().invoke(app, ["demo-vllm"])
    assert result.exit_code == 1
    assert says in result.stdout
    assert result.stderr == "shmtransport demo-vllm: it was off\n"
    as_json = CliRunner().invoke(app, ["demo-vllm", "--json"])
    assert (as_json.exit_code, msgspec.json.decode(as_json.stdout, type=Report)) == (1, failed)


ONE = Answer([7, 8], [{"7": (-1.0).hex(), "9": (-2.0).hex()}, {"8": (-1.0).hex()}])


@pytest.mark.parametrize(
    ("other", "distance"),
    [
        (ONE, 0.0),
        (Answer([7, 8], [ONE.logprobs[0], {"8": (-1.5).hex()}]), 0.5),
        (Answer([9, 8], [ONE.logprobs[0], {"8": (-1.5).hex()}]), 0.0),  # from there on they answer different questions
        (Answer([7, 8], [{"7": (-1.0).hex(), "10": (-5.0).hex()}, ONE.logprobs[1]]), 0.0),
    ],
)
def test_answers_are_compared_while_they_say_the_same(other: Answer, distance: float) -> None:
    assert ONE.distance(other) == distance


def test_equal_answers_that_ignore_the_images_prove_nothing() -> None:
    moved = Answer([7, 8], [{"7": (-1.25).hex()}, ONE.logprobs[1]])
    looks, ignores = {1: Compared(ONE, moved)}, {1: Compared(ONE, ONE)}
    assert identical([looks, looks])
    assert not identical([looks, ignores])
    assert not identical([{1: Compared(Answer([], []), moved)}] * 2)
    assert control_differs([looks, looks])
    assert not control_differs([looks, ignores])


MEASURED = Measured(
    "a", images=2, payload_nbytes=8, wire_nbytes=9, staged_s=0.25, sent_s=10.0, request_s=3.0, begun_s=9.0
)
DECODED = Decoded("a", 10.5, 2, [])
PASSED = Passed(["b", "a"], 11.0, 0.5, 100)
RECEIVED = [Received(["b", "a"], rank, 12.0, 0.1 * rank, {}) for rank in (1, 2)]


def test_a_sample_joins_what_the_frontend_and_the_recorder_saw(tmp_path: Path) -> None:
    record = tmp_path / "record"
    assert records.read(record) == []
    others: list[Event] = [Decoded("b", 10.0, 7, []), Passed(["b"], 1.0, 9.0, 1), Received(["b"], 0, 1.0, 9.0, {})]
    for event in [*others, DECODED, PASSED, *RECEIVED]:
        records.append(record, event)
    sample = run.sample_of(MEASURED, records.read(record))
    assert sample.hop1_seconds == 0.75
    assert (sample.sent_seconds, sample.sent_wire_nbytes, sample.received_seconds) == (0.5, 100, 0.2)


@pytest.mark.parametrize(
    "events",
    [
        [PASSED, *RECEIVED],
        [DECODED, DECODED, PASSED, *RECEIVED],
        [DECODED, PASSED, PASSED, *RECEIVED],
        [DECODED, PASSED],
        [Decoded("a", 10.5, 1, []), PASSED, *RECEIVED],  # the other image was in a cache
    ],
)
def test_a_request_that_was_not_seen_whole_is_no_sample(events: list[Event]) -> None:
    with pytest.raises(ServingError, match="a request of 2 images"):
        run.sample_of(MEASURED, events)


def test_memory_left_behind_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "_GONE_TIMEOUT_S", 0.0)
    from shmtransport import Ring, segment

    before = set(segment.rings())
    with Ring.create("1MiB"):
        assert run._left_nbytes(before) > 1 << 20
        assert run._left_nbytes(set(segment.rings())) == 0
    assert run._left_nbytes(before) == 0


def children_named(module: str) -> list[psutil.Process]:
    return [child for child in psutil.Process().children(recursive=True) if module in child.cmdline()]


def program(folder: Path, name: str, text: str) -> dict[str, str]:
    """An environment in which ``name`` is a module with this text."""
    (folder / f"{name}.py").write_text(text)
    return {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}


def test_a_child_that_fails_is_shown_with_the_end_of_its_log(tmp_path: Path) -> None:
    environment = program(tmp_path, "failing", "print('loading'); raise SystemExit('out of luck')")
    with pytest.raises(ServingError, match=r"failing has ended with status 1; (.|\n)*loading\nout of luck"):
        run_module("failing", environment=environment, log=tmp_path / "log", look=lambda: None)


def test_a_child_that_answers_to_nothing_is_killed_with_its_own_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shmtransport.demo_vllm.processes._END_TIMEOUT_S", 0.1)
    text = (
        "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(600)', 'grandchild'])"
    )
    seen: list[psutil.Process] = []

    def look() -> None:
        wait_until(lambda: bool(children_named("grandchild")), timeout_s=30.0)
        seen.extend([*children_named("grandchild"), *children_named("waiting")])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_module("waiting", environment=program(tmp_path, "waiting", text), log=tmp_path / "log", look=look)
    assert len(seen) == 2
    wait_until(lambda: not any(process.is_running() and process.status() != "zombie" for process in seen))


@pytest.mark.parametrize(
    ("missing", "remedy"),
    [
        ("typer", "pip install 'shmtransport[cli]'"),
        ("rich", "pip install 'shmtransport[cli]'"),
        ("skimage", "pip install 'shmtransport[demo]'"),
        ("vllm", "make venv-vllm"),
    ],
)
def test_a_missing_package_is_answered_by_the_line_that_installs_it(missing: str, remedy: str) -> None:
    before = f"import sys; sys.modules[{missing!r}] = None"
    ran = run_python(f"{before}\n{COMMAND}", "demo-vllm", timeout_s=60.0, fails=True)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert re.fullmatch(rf"[^\n]*{re.escape(remedy)}[^\n]*\n", ran.stderr)


@pytest.mark.parametrize("value", ["0", "ten", ""])
def test_an_option_that_makes_no_sense_is_named(value: str) -> None:
    result = CliRunner().invoke(app, ["demo-vllm", "--images", value])
    assert (result.exit_code, result.stdout) == (2, "")
    assert "--images" in result.stderr


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Callable[[Room], tuple[Settings, str]]:
    """Runs the command on a machine with that much room: what it would have run, and what it says."""

    def ask(room: Room) -> tuple[Settings, str]:
        wanted: list[Settings] = []

        def instead(settings: Settings, _: object) -> run.Outcome:
            wanted.append(settings)
            return run.Outcome(a_report(), "0", [])

        monkeypatch.setattr(Room, "here", lambda: room)
        monkeypatch.setattr("shmtransport.demo_vllm.command.run", instead)
        result = CliRunner().invoke(app, ["demo-vllm"])
        assert result.exit_code == 0
        return wanted[0], result.stderr

    return ask


def test_requests_shrink_to_the_memory_there_is(asked: Callable[[Room], tuple[Settings, str]]) -> None:
    plenty = Settings().room
    assert asked(plenty) == (Settings((1, 10, 50)), "")
    smaller, says = asked(plenty._replace(shared_nbytes=plenty.shared_nbytes - 1))
    assert smaller == Settings((1, 10, 49))
    assert "has 49 images, not 50" in says
    assert asked(Room(0, 0))[0] == Settings((1,))


def test_the_ring_has_room_for_vllms_cache_and_the_next_request() -> None:
    assert Settings((1,)).ring_nbytes < CACHE_NBYTES
    assert Settings((1000,)).ring_nbytes - CACHE_NBYTES > 1000 * IMAGE_NBYTES
