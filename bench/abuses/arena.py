"""Where a peer may be abused: a mount, IPC and process namespace with its own /dev/shm and /tmp, which is HOME too.

`run_in` starts an abuse there from outside; the rest is for the abuse, which is process 1 of its arena, so that every
process a peer starts descends from it, daemons too. When it ends, or is killed at its deadline, the kernel kills all of
them and frees both file systems: nothing is left on the host.
"""

import contextlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from bench.payloads import Payload
from bench.peers.pair import ROOT
from bench.peers.peer import SHARED_MEMORY, Peer, Terms

MIB = 1 << 20
DEADLINE_S = 240.0
TMP_NBYTES = 4096 * MIB
PAYLOAD = Payload("3 MiB", (3 * MIB,), "uint8")
TERMS = Terms(stem="abuse", nbytes=PAYLOAD.nbytes, tensors=1, alive=4)
SETTLE_S = 5.0
"""What helpers get to do their work in, and processes to end."""
OUTSIDE = "SHMTRANSPORT_ABUSE_OUTSIDE"
"""Carries the process namespace of the starter, which must not be the arena's."""


@dataclass(frozen=True)
class Subject:
    """What an abuse is told of a peer, whose class, and what that imports, only its own two processes need."""

    name: str
    backing: str
    has_helper: bool
    places: tuple[str, ...]

    @classmethod
    def of(cls, peer: type[Peer], backing: str) -> "Subject":
        return cls(peer.name, backing, peer.helper is not None, tuple(map(str, peer.places)))


def run_in(abuse: str, subject: Subject) -> dict[str, Any]:
    """What an abuse found; a `hung` entry where its deadline ended it."""
    unshare = shutil.which("unshare")
    if unshare is None:
        raise FileNotFoundError("expected unshare of util-linux on PATH, found none")
    namespaces = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    namespaces += ["--mount", "--ipc", "--pid", "--fork", "--kill-child=KILL", "--mount-proc"]
    command = [unshare, *namespaces, sys.executable, "-m", f"bench.abuses.{abuse}", json.dumps(asdict(subject))]
    places = dict.fromkeys(("HOME", "TMPDIR", "SHMTRANSPORT_SOCKET_DIRECTORY"), "/tmp")
    environment = {**os.environ, OUTSIDE: os.readlink("/proc/self/ns/pid"), **places}
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            stdout, stderr = process.communicate(timeout=DEADLINE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            return {"hung": f"{abuse} still ran after {DEADLINE_S:.0f} s"}
    if process.returncode != 0:
        raise RuntimeError(f"{abuse} of {subject}: exit status {process.returncode}\n{stdout}{stderr}")
    found: dict[str, Any] = json.loads(stdout.splitlines()[-1])
    return found


def main(abuse: Callable[[Subject], dict[str, Any]], shm_nbytes: int) -> None:
    """The program of an abuse, in its arena. Prints what was found as the last line."""
    outside = os.environ.get(OUTSIDE)
    if outside is None or os.readlink("/proc/self/ns/pid") == outside:
        sys.exit("an abuse runs in an arena: start it by `python bench/abuse.py`")
    subject = Subject(**json.loads(sys.argv[1]))
    mount_own(shm_nbytes)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.chdir(ROOT)
    print(json.dumps(abuse(subject)), flush=True)


def mount_own(shm_nbytes: int) -> None:
    """A /dev/shm of that size and a /tmp, in which this checkout and this Python stay where they are."""
    tmp = Path("/tmp")
    needed = {path: os.open(path, os.O_PATH) for path in (ROOT, Path(sys.prefix)) if path.is_relative_to(tmp)}
    for folder, nbytes in ((SHARED_MEMORY, shm_nbytes), (tmp, TMP_NBYTES)):
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={nbytes},mode=1777", "tmpfs", folder], check=True)
    for path, fd in needed.items():
        path.mkdir(parents=True, exist_ok=True)
        source = f"/proc/self/fd/{fd}"  # its path is hidden by now
        subprocess.run(["mount", "--no-canonicalize", "--bind", source, path], pass_fds=[fd], check=True)
        os.close(fd)


def family() -> list[psutil.Process]:
    """Every other process of the arena that has not ended."""
    reap()
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def reap() -> None:
    """Takes the exit status of whatever was left to process 1 and has ended."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0] != 0:
            pass


def kill(processes: Iterable[psutil.Process]) -> None:
    """SIGKILL for all of them at one moment: none sees another one gone. Returns when they are no more."""
    doomed = list(processes)
    for sent in (signal.SIGSTOP, signal.SIGKILL):
        for process in doomed:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(sent)
    wait_for(lambda: not {process.pid for process in doomed} & {process.pid for process in family()})


def wait_for(condition: Callable[[], bool]) -> bool:
    """Whether it became true within `SETTLE_S`."""
    deadline = time.monotonic() + SETTLE_S
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def left_in(places: Iterable[str]) -> tuple[int, int]:
    """Bytes and names of files, as far as they take memory."""
    nbytes = names = 0
    for place in places:
        for folder, _, files in os.walk(place):
            for file in files:
                names += 1
                nbytes += os.lstat(os.path.join(folder, file)).st_blocks * 512
    return nbytes, names
