"""`shmtransport ls`, `stat`, `top` and `reap`, as an operator runs them: in a pipe, and in a terminal of 80 columns."""

import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator, Sequence
from contextlib import suppress

import msgspec
import pytest

from shmtransport import observing
from shmtransport.observing import Found
from shmtransport.segment.room import SHM_DIRECTORY
from tests.processes.children import Child, child
from tests.support import BACKING, ROOT, run_python, running_python, wait_until, with_shared_memory

MAIN = "from shmtransport.__main__ import main; main()"
VERSION_OFFSET = 8
"""Of the layout's version in the control segment: docs/protocol.md."""


@pytest.fixture
def writer() -> Iterator[Child]:
    """Has a ring, ``ring``, with a reader that holds one of its two blocks, in another process."""
    with child("quick") as process, child("quick") as engine:
        process.run("ring = Ring.create('64MiB', segment='16MiB', name='painter')\nheld = [ring.put(pixels(1))] * 2")
        engine.run("reader = Reader.join(ring_id, name='engine')", ring_id=process.ask("ring.id"))
        process.run("held[1] = ring.put(pixels(2))\nring.count_inline(shmtransport.layout.InlineReason.FULL)")
        wire = process.ask("bytes(ring.share(held[1], peer))", peer=engine.ask("reader.peer_id"))
        engine.run("tensor = reader.open(wire)", wire=wire)
        wait_until(lambda: observing.look(process.ask("ring.id")).processes[1].leased_blocks == 1)
        yield process


@pytest.fixture
def orphan() -> Iterator[str]:
    """The id of a ring of a killed process."""
    with child("quick") as process:
        process.run("ring = Ring.create('4MiB', segment='1MiB')")
        ring_id: str = process.ask("ring.id")
        process.kill()
    wait_until(lambda: [each.state for each in observing.rings()] == ["orphan"])
    yield ring_id
    shmtransport("reap")


def shmtransport(*arguments: str, fails: bool = False) -> str:
    """What the command prints into a pipe: on its standard output, or, if it fails, on both."""
    ran = run_python(MAIN, *arguments, fails=fails)
    assert "\x1b" not in ran.stdout
    assert max(map(len, ran.stdout.splitlines() or [""])) <= 80 or "--json" in arguments
    return ran.stdout + ran.stderr if fails else ran.stdout


class Terminal:
    """A command in a terminal of 24 lines and 80 columns."""

    def __init__(self, arguments: Sequence[str]) -> None:
        self._terminal, child_end = pty.openpty()
        fcntl.ioctl(child_end, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        environment = {**os.environ, "TERM": "xterm-256color", "PYTHONPATH": str(ROOT), "LC_ALL": "C.UTF-8"}
        command = [sys.executable, "-c", MAIN, *arguments]
        self.process = subprocess.Popen(command, stdin=child_end, stdout=child_end, stderr=child_end, env=environment)
        os.close(child_end)
        self.printed = ""

    def read_until(self, text: str, times: int = 1) -> None:
        while self.printed.count(text) < times:
            self.printed += os.read(self._terminal, 4096).decode(errors="replace")

    def end(self) -> list[str]:
        """All its lines, without what moves the cursor and colours; it has to end with status 0."""
        with suppress(OSError):  # EIO: the other end is closed
            while part := os.read(self._terminal, 4096):
                self.printed += part.decode(errors="replace")
        os.close(self._terminal)
        assert self.process.wait(timeout=30) == 0
        return (
            re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.printed).replace("\r\n", "\n").replace("\r", "\n").splitlines()
        )


def test_without_arguments_it_shows_each_command_in_a_line() -> None:
    shown = run_python(MAIN, fails=True)
    for command in ("ls", "stat", "top", "reap", "doctor", "demo", "demo-vllm"):
        assert re.search(rf"^\W*{command} +\S", shown.stdout + shown.stderr, re.MULTILINE), command


def test_where_there_is_no_ring_each_says_so() -> None:
    assert "no ring" in shmtransport("ls")
    assert "nothing to reap" in shmtransport("reap")
    assert "no ring" in shmtransport("top", "--interval", "0.1")
    assert "no ring" in shmtransport("stat", "abc", fails=True)
    assert json.loads(shmtransport("ls", "--json")) == []


def test_ls_shows_who_owns_a_ring_and_what_it_holds(writer: Child) -> None:
    heading, row = shmtransport("ls").splitlines()
    assert heading.split() == "ring state writer pid backing used of blocks readers age".split()
    ring_id = writer.ask("ring.id")
    assert row.split()[:-2] == [
        *(ring_id[:8], "alive", "painter", str(writer.pid), BACKING, "2.0", "MiB", "64.0", "MiB", "2", "1")
    ]


def test_stat_shows_what_each_process_holds_and_has_done(writer: Child) -> None:
    shown = shmtransport("stat", writer.ask("ring.id")[:6])
    assert re.search(rf"writer painter +{writer.pid} alive .* 2 +2.0 MiB", shown)
    assert re.search(r"reader engine +\d+ alive .* 1 +1.0 MiB", shown)
    assert re.search(r"writer painter +2.0 MiB +2 +[\d.]+ +1", shown)
    assert re.search(r"1 full +no room after growth and reaping", shown)
    assert "largest free extent 14.0 MiB" in shown


def test_a_long_name_is_cut_and_nothing_else() -> None:
    with child("quick") as process:
        process.run("ring = Ring.create('64MiB', segment='1MiB', name=31 * 'n'); held = ring.put(pixels(1))")
        ring_id = process.ask("ring.id")
        for command in (["ls"], ["stat", ring_id], ["top", "--interval", "0.1"]):
            shown = shmtransport(*command)
            assert all(part in shown for part in (ring_id[:8], str(process.pid), "nnnn", "MiB"))


def test_of_several_rings_that_begin_alike_stat_names_them() -> None:
    with child("quick") as process:
        process.run("rings = [Ring.create('1MiB', segment='1MiB') for _ in range(17)]")  # of 16 first digits
        ids = process.ask("[ring.id for ring in rings]")
        digit = next(each[0] for each in ids if sum(other[0] == each[0] for other in ids) > 1)
        said = shmtransport("stat", digit, fails=True)
        assert all(each in said for each in ids if each[0] == digit)
        assert shmtransport("stat", ids[0]).startswith(f"ring {ids[0]}")


@pytest.mark.parametrize("name", ["[/x]", "[red]x[/red]", "\x1b]0;x\x07", "a\nb"])
def test_a_name_is_shown_and_never_obeyed(name: str) -> None:
    with child("quick") as process:
        process.run("ring = Ring.create('4MiB', segment='1MiB', name=name)", name=name)
        ring_id, shown = process.ask("ring.id"), re.sub(r"[\x00-\x1f]", "?", name)
        for command in (["ls"], ["stat", ring_id], ["top", "--interval", "0.1"]):
            assert shown in shmtransport(*command)


def test_json_is_what_is_observed(writer: Child) -> None:
    ring_id = writer.ask("ring.id")
    (listed,) = msgspec.json.decode(shmtransport("ls", "--json"), type=list[Found])
    stated = msgspec.json.decode(shmtransport("stat", ring_id, "--json"), type=Found)
    (seen,) = observing.rings()
    for found in (listed, stated):
        assert found.statistics is not None
        assert seen.statistics is not None
        assert (found.ring_id, found.state, found.backing) == (seen.ring_id, seen.state, seen.backing)
        assert found.statistics.writer.written_nbytes == seen.statistics.writer.written_nbytes
        assert found.statistics.inline == {"full": 1}


def test_top_tells_what_was_written_between_two_looks(writer: Child) -> None:
    with running_python(MAIN, "top", "--json", "--interval", "0.1") as top:
        assert top.stdout is not None
        first = json.loads(top.stdout.readline())
        ring_id = writer.ask("ring.id")
        assert first["rates"][ring_id]["written_nbytes"] == 0
        writer.run("for _ in range(5): ring.put(pixels(3))")
        written = 0.0
        while written < 5 * (1 << 20) - 1:
            picture = json.loads(top.stdout.readline())
            written += picture["rates"][ring_id]["written_nbytes"] * picture["interval_s"]
        assert written == pytest.approx(5 * (1 << 20))
        top.send_signal(signal.SIGINT)
        assert top.wait(timeout=20) == 0


def test_top_draws_in_its_place_until_interrupted(writer: Child) -> None:
    top = Terminal(["top", "--interval", "0.2"])
    top.read_until("writer painter", times=3)
    top.process.send_signal(signal.SIGINT)
    lines = top.end()
    assert "\x1b[1A" in top.printed, "the cursor goes up again"
    assert "█" in top.printed
    assert max(map(len, lines)) <= 80
    assert str(writer.pid) in top.printed


@pytest.mark.parametrize("command", ["ls", "stat", "reap"])
def test_in_a_terminal_no_line_is_wider_than_80_columns(writer: Child, command: str) -> None:
    arguments = [command, writer.ask("ring.id")[:8]] if command == "stat" else [command]
    lines = Terminal(arguments).end()
    assert lines
    assert max(map(len, lines)) <= 80


def test_reap_removes_orphans_and_nothing_else(writer: Child) -> None:
    with child("quick") as process:
        process.run("ring = Ring.create('4MiB', segment='1MiB')")
        process.kill()
    wait_until(lambda: sorted(each.state for each in observing.rings()) == ["alive", "orphan"])
    alive = writer.ask("ring.id")
    assert "would remove 1 ring" in shmtransport("reap", "--dry-run")
    assert len(observing.rings()) == 2
    reaped = json.loads(shmtransport("reap", "--json"))
    assert len(reaped["rings"]) == 1
    assert reaped["nbytes"] == (1 << 20 if BACKING == "posix" else 0)
    assert (reaped["dry_run"], reaped["left"]) == (False, [])
    assert [each.ring_id for each in observing.rings()] == [alive]


def test_an_orphan_is_shown_as_one(orphan: str) -> None:
    assert re.search(rf"^{orphan[:8]} orphan", shmtransport("ls"), re.MULTILINE)
    assert orphan[:8] in shmtransport("reap", "--dry-run")


@pytest.mark.posix
def test_another_layout_is_a_row_with_its_reason(writer: Child) -> None:
    ring_id = writer.ask("ring.id")
    with (SHM_DIRECTORY / f"shmt-{os.geteuid()}-{ring_id}-0").open("r+b") as control:
        control.seek(VERSION_OFFSET)
        control.write(struct.pack("<I", 7))
    assert re.search(rf"^{ring_id[:8]} foreign(.|\n)*found layout\s+7", shmtransport("ls"), re.MULTILINE)
    assert "is foreign" in shmtransport("stat", ring_id, fails=True)
    assert "foreign" not in shmtransport("top", "--interval", "0.1").splitlines()[0]


@pytest.mark.posix
def test_another_user_sees_that_it_is_there(writer: Child) -> None:
    ring_id = writer.ask("ring.id")
    if os.geteuid() != 0:
        pytest.fail("needs root, to be two users")
    become = (  # once as root: another user may not read where Python is installed
        "import os, typer.testing, shmtransport.cli\n"
        "typer.testing.CliRunner().invoke(shmtransport.cli.app, ['ls'])\nos.setresuid(65534, 65534, 65534)"
    )
    row = run_python(f"{become}\n{MAIN}", "ls").stdout.splitlines()[1]
    assert row.split()[:4] == [ring_id[:8], "denied", "user", "0"]
    assert "is denied" in run_python(f"{become}\n{MAIN}", "stat", ring_id, fails=True).stderr
    assert "nothing to reap" in run_python(f"{become}\n{MAIN}", "reap").stdout


def test_a_full_dev_shm_hinders_no_look() -> None:
    fill = (
        "import os, shmtransport as s\nring = s.Ring.create('4MiB', segment='4MiB', backing='posix')\n"
        "free = os.statvfs('/dev/shm'); fd = os.open('/dev/shm/filler', os.O_CREAT | os.O_RDWR)\n"
        "os.posix_fallocate(fd, 0, free.f_bavail * free.f_frsize)\nassert os.statvfs('/dev/shm').f_bavail == 0\n"
    )
    for command in (["ls"], ["top", "--interval", "0.1"], ["reap"]):
        with running_python(fill + MAIN, *command, prefix=with_shared_memory("size=8m")) as ran:
            stdout, stderr = ran.communicate(timeout=40)
        assert (ran.returncode, stderr) == (0, "")
        assert ("nothing to reap" in stdout) == (command == ["reap"])


def test_a_closed_pipe_ends_top_without_a_traceback(writer: Child) -> None:
    with running_python(MAIN, "top", "--interval", "0.1", "--count", "1000") as top:
        assert top.stdout is not None
        assert top.stderr is not None
        while writer.ask("ring.id")[:8] not in top.stdout.readline():
            pass
        top.stdout.close()
        top.wait(timeout=20)
        assert "Traceback" not in top.stderr.read()
