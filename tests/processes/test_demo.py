"""The demo as a command: what it prints, when it fails, and that it takes its engine along when it ends."""

import json
import re
import signal
import subprocess
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

from shmtransport import Ring, segment
from shmtransport.cli import app
from shmtransport.demo.frontend import left_nbytes
from shmtransport.demo.photographs import image_nbytes
from shmtransport.demo.report import Machine, Report
from shmtransport.demo.room import Room
from shmtransport.demo.settings import Settings
from tests.support import run_python, running_python, segment_names, wait_until

pytestmark = pytest.mark.timeout(180)

COMMAND = "from shmtransport.__main__ import main; main()"
TRANSPORTS = ["shmtransport", "zmq-multipart", "pickle"]
SMALLEST = ("demo", "--images", "1", "--requests", "1", "--dtypes", "bfloat16")


def run_command(*args: str, before: str = "", fails: bool = False) -> subprocess.CompletedProcess[str]:
    return run_python(f"{before}\n{COMMAND}", *args, timeout_s=150.0, fails=fails)


def engines_of(frontend: subprocess.Popen[str]) -> list[psutil.Process]:
    """The processes that it has started."""
    children: list[psutil.Process] = psutil.Process(frontend.pid).children()
    return children


def is_alive(process: psutil.Process) -> bool:
    """Whether it runs; one that has ended may wait for somebody to ask for its exit status."""
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def segments_of(processes: list[psutil.Process]) -> set[str]:
    """Names of the segments that they map."""
    maps = "".join(Path(f"/proc/{process.pid}/maps").read_text() for process in processes)
    return set(re.findall(r"(?:/dev/shm/|/memfd:)(shmt-\S+)", maps))


def test_json_has_a_row_for_each_transport_size_and_dtype() -> None:
    ran = run_command("demo", "--json", "--images", "2,1", "--requests", "5")
    report = json.loads(ran.stdout)
    assert ran.stderr == ""
    assert (report["verified"], report["leaked_nbytes"]) == (True, 0)
    assert [(row["dtype"], row["images"], row["transport"]) for row in report["rows"]] == [
        (dtype, images, transport) for dtype in ("float32", "bfloat16") for images in (2, 1) for transport in TRANSPORTS
    ]
    for row in report["rows"]:
        assert row["payload_nbytes"] == row["images"] * image_nbytes(row["dtype"])
        assert row["requests"] == 5
        assert 0 < row["seconds"] < 60
        assert row["faults_per_message"] >= 0
        if row["transport"] == "shmtransport":
            assert row["wire_nbytes"] <= 400 * row["images"]
            assert row["faults_per_message"] < 16  # of the 1176 pages that the smallest payload has
        else:
            assert row["payload_nbytes"] < row["wire_nbytes"] < row["payload_nbytes"] + 4096


def test_the_table_is_plain_text_of_80_columns_in_a_pipe() -> None:
    lines = run_command(*SMALLEST).stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert not any("\x1b" in line or "…" in line for line in lines)
    assert [line.split()[0] for line in lines if line.startswith("    ")][-3:] == TRANSPORTS
    assert "✓ all 9 images arrived with every byte right" in lines
    assert "✓ nothing is left in /dev/shm" in lines


def test_one_wrong_byte_fails_the_demo() -> None:
    spoil = """
        from shmtransport.demo import frontend, messages

        def spoiling_checksum(image):
            taken = messages.checksum(image)
            messages.payload_of(image)[-1] ^= 1
            return taken

        frontend.checksum = spoiling_checksum
        from shmtransport.__main__ import main; main()
    """
    ran = run_python(spoil, *SMALLEST, "--json", timeout_s=150.0, fails=True)
    report = json.loads(ran.stdout)
    assert (ran.returncode, report["verified"], report["leaked_nbytes"]) == (1, False, 0)


@pytest.mark.posix
def test_memory_left_behind_is_found_and_fails_the_demo() -> None:
    with Ring.create("1MiB") as ring:
        leaked_nbytes = left_nbytes(ring.id)
    assert leaked_nbytes > 1 << 20
    assert left_nbytes(ring.id) == 0
    report = Report(verified=True, leaked_nbytes=leaked_nbytes, rows=[], images_verified=0, machine=Machine.here())
    assert not report.ok


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_the_engine_and_the_ring_go_with_the_frontend(number: signal.Signals) -> None:
    with running_python(COMMAND, "demo", "--images", "2", "--requests", "10000") as frontend:
        # A data segment is mapped at the end of a join: from then on the engine is in the ring.
        wait_until(lambda: any(name.endswith("-1") for name in segments_of(engines_of(frontend))), timeout_s=60.0)
        engines = engines_of(frontend)
        ring_ids = {name.split("-")[2] for name in segments_of(engines)}
        frontend.send_signal(number)
        # An interpreter that has loaded torch takes seconds to end on a busy machine; one that hangs takes for ever.
        assert frontend.wait(20.0) != 0
        wait_until(lambda: not any(is_alive(engine) for engine in engines), timeout_s=20.0)
        if number == signal.SIGKILL:
            # The kernel closes a killed process's files one after the other. An engine that leaves after its pipe and
            # before its lock takes the frontend for alive, and leaves the names to the next start, which sweeps.
            segment.sweep()
        wait_until(lambda: not any(ring_id in name for name in segment_names() for ring_id in ring_ids))


def test_a_dead_engine_fails_the_demo() -> None:
    with running_python(COMMAND, "demo", "--images", "2", "--requests", "10000") as frontend:
        wait_until(lambda: bool(engines_of(frontend)), timeout_s=60.0)
        for engine in engines_of(frontend):
            engine.kill()
        stdout, stderr = frontend.communicate(timeout=60.0)
    assert (frontend.returncode, stdout) == (1, "")
    assert stderr == "shmtransport demo: the engine has ended with status -9\n"


@pytest.mark.parametrize(
    ("missing", "remedy"),
    [
        ("typer", "pip install 'shmtransport[cli]'"),
        ("rich", "pip install 'shmtransport[cli]'"),
        ("skimage", "pip install 'shmtransport[demo]'"),
    ],
)
def test_a_missing_package_is_answered_by_the_line_that_installs_it(missing: str, remedy: str) -> None:
    ran = run_command("demo", before=f"import sys; sys.modules[{missing!r}] = None", fails=True)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert re.fullmatch(rf"[^\n]*{re.escape(remedy)}\n", ran.stderr)


@pytest.mark.parametrize(
    ("option", "value"),
    [("--images", "0"), ("--images", "ten"), ("--dtypes", "int8"), ("--requests", "0")],
)
def test_an_option_that_makes_no_sense_is_named(option: str, value: str) -> None:
    result = CliRunner().invoke(app, ["demo", option, value])
    assert (result.exit_code, result.stdout) == (2, "")
    assert option in result.stderr


def test_without_arguments_the_command_lists_its_commands() -> None:
    assert "demo" in CliRunner().invoke(app, []).output


def test_requests_shrink_to_the_memory_there_is() -> None:
    wanted = Settings(images=(1, 10, 50), dtypes=("float32",))
    plenty = wanted.room
    assert wanted.fitted(plenty) == wanted
    assert wanted.fitted(plenty._replace(shared_nbytes=128 << 20)).images == (1, 10, 11)
    assert wanted.fitted(plenty._replace(memory_nbytes=2 << 30)).images == (1, 10, 12)
    assert wanted.fitted(Room(0, 0)).images == (1,)
