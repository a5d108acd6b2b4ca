"""What tests of several layers need: other processes, waiting with a deadline, and a look into /dev/shm."""

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]
SHARED_MEMORY = Path("/dev/shm")
BACKING = os.environ.get("SHMTRANSPORT_BACKING", "posix")
"""Of the rings that tests make without asking for another: the run's."""
SOCKETS = Path(os.environ.get("SHMTRANSPORT_SOCKET_DIRECTORY", "/tmp"))


def run_python(
    code: str, *args: object, timeout_s: float = 30.0, cwd: Path | None = None, fails: bool = False
) -> subprocess.CompletedProcess[str]:
    """Runs ``code`` in an unrelated process: an interpreter and session of its own, nothing inherited.

    ``args`` are its ``sys.argv[1:]``, as text. The test fails, showing what the process printed, if it exits
    with an error (with ``fails=True``: without one) or still runs after ``timeout_s``; then it is killed.
    """
    with running_python(code, *args, cwd=cwd) as process:
        try:
            stdout, stderr = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            stdout, stderr = process.communicate()
            raise AssertionError(f"still running after {timeout_s} s\n{stdout}{stderr}") from None
    if (process.returncode != 0) != fails:
        raise AssertionError(f"exit status {process.returncode}\n{stdout}{stderr}")
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


@contextlib.contextmanager
def running_python(
    code: str,
    *args: object,
    cwd: Path | None = None,
    prefix: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> Iterator[subprocess.Popen[str]]:
    """Starts ``code`` as ``run_python`` does; stdin, stdout and stderr are pipes for text to talk to it.

    ``prefix`` is a command that starts the command behind it; ``environment`` comes on top of this process's.
    At the end of the ``with`` block it is killed, if it still runs, and waited for.
    """
    search_path = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    with subprocess.Popen(
        [*prefix, sys.executable, "-c", textwrap.dedent(code), *map(str, args)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(search_path), **(environment or {})},
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def with_shared_memory(options: str) -> list[str]:
    """A command that starts the command behind it where /dev/shm is a tmpfs of its own with these mount options.

    It lies in a mount namespace of its own, which ends with the last process in it (in a user namespace where that
    takes root).
    """
    unshare = shutil.which("unshare")
    assert unshare is not None, "util-linux has unshare"
    namespaces = ["--mount"] if os.geteuid() == 0 else ["--user", "--map-root-user", "--mount"]
    mount = 'mount -t tmpfs -o "$0" tmpfs /dev/shm && exec "$@"'
    return [unshare, *namespaces, "sh", "-c", mount, options]


def compile_c(*arguments: str | Path, cwd: Path | None = None, compiler: str | None = None) -> None:
    """Runs ``compiler``, or CC's; the test fails, showing what it printed, if that reports an error."""
    command = [*shlex.split(compiler or os.environ.get("CC", "cc")), *arguments]
    done = subprocess.run(
        command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, f"{shlex.join(map(str, command))}\n{done.stdout}"


def wait_until(condition: Callable[[], bool], timeout_s: float = 5.0) -> None:
    """Returns as soon as ``condition()`` is true, and fails the test if it is not within ``timeout_s``.

    For what another process does in its own time. It looks every millisecond.
    """
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not so within {timeout_s} s: {condition}")
        time.sleep(0.001)


def stop(pid: int) -> None:
    """SIGSTOP; returns once every thread of the process has stopped: the signal alone is only a request."""
    os.kill(pid, signal.SIGSTOP)
    threads = Path(f"/proc/{pid}/task")
    wait_until(lambda: all(thread.read_text().rpartition(") ")[2][0] == "T" for thread in threads.glob("*/stat")))


def segment_names() -> set[str]:
    """Names in /dev/shm that are segments of this user, and paths of the sockets of its anonymous rings."""
    prefix = f"shmt-{os.geteuid()}"
    sockets = SOCKETS / prefix
    found = {name for name in os.listdir(SHARED_MEMORY) if name.startswith(f"{prefix}-")}
    return found | ({str(path) for path in sockets.iterdir()} if sockets.exists() else set())


def segments_mapped_by_strangers() -> set[str]:
    """Those segments that a living process maps which is neither this one nor one that descends from it."""
    family = {os.getpid(), *(child.pid for child in psutil.Process().children(recursive=True))}
    mapped: set[str] = set()
    for maps in Path("/proc").glob("[0-9]*/maps"):
        if int(maps.parent.name) in family:
            continue
        with contextlib.suppress(OSError):  # gone meanwhile, or another user's
            text = maps.read_text()
            mapped.update(re.findall(r"/dev/shm/(shmt-\S+)", text))
            rings = re.findall(r"/memfd:(shmt-\d+)-([0-9a-f]{32})-", text)
            mapped.update(str(SOCKETS / folder / ring_id) for folder, ring_id in rings)
    return mapped
