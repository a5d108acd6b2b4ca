"""`shmtransport doctor` on machines that were made bad, each in one way: it names what is wrong, and what mends it."""

import fcntl
import os
import pty
import re
import shlex
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from shmtransport import Ring
from shmtransport.segment.memfd import VARIABLE as SOCKETS
from tests.doctoring import COMMAND, ORPHAN, examined, run_doctor, sockets_of
from tests.processes.children import Child, child
from tests.support import ROOT, SHARED_MEMORY, run_python, with_shared_memory

pytestmark = pytest.mark.posix  # each names the backing that it is about

ENLARGED = ("docker run --shm-size=10g", "emptyDir {medium: Memory, sizeLimit: 10Gi}", "size=10g /dev/shm")
VERSION_OFFSET = 8
"""Of the layout's version in the control segment: docs/protocol.md."""
LOADED = "from shmtransport.doctor.command import doctor\nimport os, resource"
WITHOUT_RIGHTS = "from tests.pressure.limits import unprivileged; rights = unprivileged(); rights.__enter__()"


@pytest.fixture
def writer() -> Iterator[Child]:
    """Has a ring, ``ring``, in /dev/shm."""
    with child("quick") as process:
        process.run("ring = Ring.create('4MiB', segment='1MiB', entries=64, backing='posix')")
        yield process


def test_nothing_fails_on_a_machine_with_room(tmp_path: Path) -> None:
    found = examined(prefix=with_shared_memory("size=64g,huge=within_size"), environment={SOCKETS: str(tmp_path)})
    assert found.status == 0, found
    assert "64.0 GiB, 64.0 GiB free" in found.of("/dev/shm", "ok").text
    assert found.of("rings", "ok").text.startswith("none of living writers")
    assert re.search(r"on \d+ threads? \(measured\): \d+\.\d GB/s", found.of("copy kernel", "ok").text)
    assert "huge=within_size" in found.of("huge pages", "ok").text
    assert {finding.check for finding in found.report.findings} >= {
        "settings", "memfd", "vllm ring", "vllm outputs", "RemoveIPC", "open files", "file size", "address space",
        "locked memory", "processor", "cuda", "sglang", "vllm",
    }  # fmt: skip
    assert sockets_of(tmp_path).is_dir()
    assert list(sockets_of(tmp_path).iterdir()) == []


def test_a_dev_shm_of_8_mb_leaves_rings_to_anonymous_memory_and_outputs_short() -> None:
    found = examined(prefix=with_shared_memory("size=8m"))
    outputs = found.of("vllm outputs", "warning")
    assert "expected 512 MiB of posix, their ring gets 1.0 MiB: 8.0 MiB are free (/dev/shm)" in outputs.text
    assert all(remedy in outputs.remedy for remedy in ENLARGED)
    assert found.status == 0


def test_a_ring_that_has_to_be_in_a_dev_shm_of_8_mb_will_fail() -> None:
    settings = {"SHMTRANSPORT_BACKING": "posix", "SHMTRANSPORT_CAPACITY": "1GiB"}
    found = examined(prefix=with_shared_memory("size=8m"), environment=settings)
    ring = found.of("vllm ring", "failure")
    assert "expected 514 MiB to begin with, 8.0 MiB are free (/dev/shm)" in ring.text
    assert "docker run --shm-size=4g" in ring.remedy
    assert found.failed() == {"vllm ring"}


def test_a_full_dev_shm_is_named() -> None:
    fill = "with open('/dev/shm/somebody', 'wb') as file:\n    import os; os.posix_fallocate(file.fileno(), 0, 8 << 20)"
    found = examined(prefix=with_shared_memory("size=8m"), before=fill)
    full = found.of("/dev/shm", "warning")
    assert "8.0 MiB, 0 bytes free" in full.text
    assert all(remedy in full.remedy for remedy in ENLARGED)


@pytest.mark.parametrize(
    ("options", "before", "level", "reason", "remedy"),
    [
        ("size=8m,ro", "", "warning", "Read-only file system", "mount -o remount,rw /dev/shm"),
        ("size=8m,mode=000", WITHOUT_RIGHTS, "failure", "No permission", "chmod 1777 /dev/shm"),
        ("size=8m,nr_inodes=1", "", "failure", "No space left on device", "mount -o remount,nr_inodes=0 /dev/shm"),
    ],
)
def test_a_dev_shm_where_nothing_can_be_made_is_named(
    options: str, before: str, level: str, reason: str, remedy: str
) -> None:
    found = examined(prefix=with_shared_memory(options), before=before).of("/dev/shm", level)
    assert reason in found.text
    assert found.remedy == remedy


def test_a_missing_dev_shm_is_named(tmp_path: Path) -> None:
    for name in ("null", "urandom"):
        (tmp_path / name).touch()
    binds = "".join(f"mount --bind /dev/{name} {tmp_path}/{name} && " for name in ("null", "urandom"))
    prefix = [*with_shared_memory("size=8m"), "sh", "-c", f'{binds}mount --rbind {tmp_path} /dev && exec "$0" "$@"']
    found = examined(prefix=prefix)
    assert "there is none" in found.of("/dev/shm", "warning").text
    assert "mount -t tmpfs -o size=10g tmpfs /dev/shm" in found.of("/dev/shm", "warning").remedy
    assert found.status == 0


@pytest.mark.parametrize(
    ("limit", "check", "text", "remedy"),
    [
        ("(resource.RLIMIT_NOFILE, (12, 12))", "open files", "RLIMIT_NOFILE is 12", "ulimit -n 65535"),
        (
            "(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))",
            "file size",
            "segments of 512 MiB, RLIMIT_FSIZE is 1.0 MiB",
            "ulimit -f unlimited",
        ),
        (
            "(resource.RLIMIT_AS, (int(open('/proc/self/statm').read().split()[0]) * 4096 + (300 << 20),) * 2)",
            "address space",
            "514 MiB for a ring",
            "ulimit -v unlimited",
        ),
    ],
)
def test_a_limit_that_is_too_low_is_named(limit: str, check: str, text: str, remedy: str) -> None:
    found = examined(prefix=with_shared_memory("size=64g"), before=f"{LOADED}\nresource.setrlimit(*{limit})")
    assert text in found.of(check, "failure").text
    assert remedy in found.of(check, "failure").remedy
    assert check in found.failed()


def test_without_any_file_to_open_it_still_says_what_is_wrong() -> None:
    """The command would find no file of typer's, so this is what it calls."""
    found = run_python(
        """
        import resource, sys
        from shmtransport.doctor import Situation, examine
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
        found = examine(Situation(environment={}))
        failures = {finding.check: finding for finding in found if finding.level == "failure"}
        assert failures.keys() == {"/dev/shm", "memfd", "open files"}, failures
        assert all(finding.remedy.startswith("ulimit -n 65535") for finding in failures.values()), failures
        """
    )
    assert found.stderr == ""


def test_few_files_are_a_warning() -> None:
    found = examined(before=f"{LOADED}\nresource.setrlimit(resource.RLIMIT_NOFILE, (200, 200))")
    assert "RLIMIT_NOFILE is 200" in found.of("open files", "warning").text


def test_an_orphan_is_named_and_its_remedy_removes_it() -> None:
    namespace = with_shared_memory("size=64m")
    orphan = examined(prefix=namespace, before=ORPHAN).of("rings", "warning")
    assert re.match(r"ring [0-9a-f]{32}, 1\.0 MiB of posix: left by processes that are dead", orphan.text)
    remedy = ["-m", *shlex.split(orphan.remedy)]  # the command, by this Python
    mend = f"subprocess.run([sys.executable, *{remedy}], check=True, stdout=subprocess.DEVNULL)"
    mended = examined(prefix=namespace, before=f"{ORPHAN}\n{mend}")
    assert mended.of("rings", "ok").text == "none of living writers"
    assert "left by" not in str(mended)


def test_a_ring_of_another_layout_and_one_that_lives_are_told_apart(writer: Child) -> None:
    ring_id = writer.ask("ring.id")
    assert "of living writers" in examined().of("rings", "ok").text
    path = SHARED_MEMORY / f"shmt-{os.geteuid()}-{ring_id}-0"
    with path.open("r+b") as file:
        file.seek(VERSION_OFFSET)
        (version,) = struct.unpack("<I", file.read(4))
        file.seek(VERSION_OFFSET)
        file.write(struct.pack("<I", version + 1))
        file.flush()
        found = examined().of("rings", "note")
        file.seek(VERSION_OFFSET)
        file.write(struct.pack("<I", version))
    assert f"ring {ring_id}: of another version of shmtransport" in found.text
    assert found.remedy == "install one version in all processes that share a ring"


def test_a_stopped_writer_of_an_anonymous_ring_is_named(tmp_path: Path) -> None:
    with child("unrelated", environment={SOCKETS: str(tmp_path)}) as writer:
        writer.run("ring = Ring.create('4MiB', segment='1MiB', entries=64, backing='memfd')")
        with writer.stopped():
            found = examined(environment={SOCKETS: str(tmp_path)}).of("rings", "warning")
    assert "its writer is stopped" in found.text
    assert "kill -CONT" in found.remedy


def test_a_name_that_somebody_else_has_made_is_named() -> None:
    """Made as root; who is not has only their own files, and a user namespace in which others are nobody."""
    name = SHARED_MEMORY / f"shmt-{os.geteuid()}-{'ab' * 16}-1"
    if os.geteuid() != 0:
        name = SHARED_MEMORY / f"shmt-0-{'ab' * 16}-1"
    name.touch()
    try:
        if os.geteuid() == 0:
            os.chown(name, 12345, -1)
        found = examined(before=f"{LOADED}\nos.geteuid = lambda: 0").of("rings", "warning")
    finally:
        name.unlink()
    owner = 12345 if os.geteuid() == 0 else os.geteuid()
    assert found.text.endswith(f"1 are of user {owner}")
    assert found.remedy == f"find /dev/shm -name 'shmt-0-*' -uid {owner} -delete"


@pytest.mark.parametrize("wrong", ["open to others", "another user's", "a link", "not there"])
def test_a_socket_directory_that_is_refused_is_named(tmp_path: Path, wrong: str) -> None:
    base, directory = tmp_path, sockets_of(tmp_path)
    if wrong == "open to others" or (wrong == "another user's" and os.geteuid() != 0):
        directory.mkdir(mode=0o755)
    elif wrong == "another user's":
        directory.mkdir(mode=0o700)
        os.chown(directory, 12345, -1)
    elif wrong == "a link":
        directory.symlink_to("/")
    else:
        base = tmp_path / "none"
    found = examined(environment={SOCKETS: str(base)})
    refused = found.of("memfd", "failure")
    assert f"expected to make a socket in {sockets_of(base)}" in refused.text
    assert f"set {SOCKETS}" in refused.remedy
    assert refused.remedy.startswith("rm ") == (wrong != "not there")
    assert found.status == 1


def test_every_wrong_setting_is_named_and_so_is_a_misspelt_one() -> None:
    wrong = {"SHMTRANSPORT_CAPACITY": "lots", "SHMTRANSPORT_COPY_KERNEL": "fast", "SHMTRANSPORT_ON_FULL": "raise"}
    found = examined(environment={**wrong, "SHMTRANSPORT_CAPACTIY": "1GiB"})
    failures = [finding for finding in found.report.findings if finding.level == "failure"]
    for name, value in wrong.items():
        (named,) = (finding for finding in failures if finding.text.startswith(f"{name}: expected "))
        assert named.text.endswith(f"got {value!r}")
        assert named.remedy.startswith(f"unset {name}, or set it to ")
    assert found.of("settings", "warning").remedy.startswith("rename it to SHMTRANSPORT_CAPACITY")
    assert found.failed() == {"settings"}


def test_the_options_are_those_of_vllm() -> None:
    settings = {"SHMTRANSPORT_BACKING": "posix"}
    options = ("--api-server-count", "4", "--mm-processor-cache-gb", "2")
    found = examined(*options, prefix=with_shared_memory("size=8g"), environment=settings).of("vllm ring", "warning")
    assert "expected 3.0 GiB for each of 4 API servers, it gets 1.0 GiB" in found.text
    assert "docker run --shm-size=24g" in found.remedy


def test_it_says_what_it_cannot_look_at_as_a_user_who_may_see_nothing() -> None:
    """Hidden from it: /proc, and with it mounts, its own descriptors, cgroups and memory."""
    hide = f"{LOADED}\nimport subprocess; subprocess.run(['mount', '-t', 'tmpfs', 'tmpfs', '/proc'], check=True)"
    found = examined(prefix=with_shared_memory("size=8m"), before=hide)
    unseen = {finding.check for finding in found.report.findings if "could not be looked at" in finding.text}
    assert unseen >= {"open files", "processor"}
    assert found.status in {0, 1}


def test_another_user_is_told_of_no_failure_that_is_none() -> None:
    """Of root's rings, which they may not read, they see the names."""
    ask = """
        import os
        from shmtransport.doctor import Situation, examine
        if os.geteuid() == 0:
            os.setgroups([])
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
        found = {finding.check: finding for finding in examine(Situation(environment={}))}
        assert all(finding.level != "failure" for finding in found.values()), found
        print(os.geteuid(), found["rings"].text, found["memfd"].text, sep="\\n")
    """
    with Ring.create("1MiB", entries=64, backing="posix"):
        uid, seen, made = run_python(ask).stdout.splitlines()
    assert re.search(r"[1-9]\d* of (other users|living writers)", seen)
    assert f"shmt-{uid}" in made


def test_no_line_is_wider_than_a_terminal_of_80_columns() -> None:
    bad = with_shared_memory("size=8m")
    terminal, child_end = pty.openpty()
    fcntl.ioctl(child_end, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    command = [*bad, sys.executable, "-c", COMMAND, "doctor"]
    environment = {**os.environ, "TERM": "xterm-256color", "PYTHONPATH": str(ROOT), "SHMTRANSPORT_BACKING": "posix"}
    with subprocess.Popen(command, stdin=child_end, stdout=child_end, stderr=child_end, env=environment) as process:
        os.close(child_end)
        printed = b""
        with suppress(OSError):  # EIO: the other end is closed
            while part := os.read(terminal, 4096):
                printed += part
        assert process.wait(timeout=50) == 0
    os.close(terminal)
    shown = printed.decode("ascii")
    lines = re.sub(r"\x1b\[[0-9;]*m", "", shown).replace("\r\n", "\n").splitlines()
    assert "\x1b[" in shown
    assert max(map(len, lines)) <= 80
    assert lines[-1] == "nothing will fail: 2 warnings, 2 notes"
    piped = run_doctor(prefix=bad, environment={"SHMTRANSPORT_BACKING": "posix"}).stdout.splitlines()
    assert [line[:24] for line in piped] == [line[:24] for line in lines]
    assert max(map(len, piped)) <= 80
    assert not any("\x1b" in line for line in piped)
