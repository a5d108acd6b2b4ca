"""`shmtransport doctor` on a machine that a test has prepared: in a process of its own, by its JSON."""

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from shmtransport.doctor import Finding, Report
from tests.support import running_python

COMMAND = "from shmtransport.__main__ import main; main()"
TIMEOUT_S = 50.0
ORPHAN = """
import os, subprocess, sys
make = "import os, shmtransport as s; r = s.Ring.create('1MiB', entries=64, backing='posix'); os.kill(os.getpid(), 9)"
assert subprocess.run([sys.executable, "-c", make]).returncode == -9
"""
"""Statements that leave one in /dev/shm: where it is not everybody's, lest another test run sweeps it."""


class Examined(NamedTuple):
    """What it said, and its exit status."""

    status: int
    report: Report

    def of(self, check: str, level: str) -> Finding:
        """The one finding of a check that has this level; the test fails if there is not exactly one."""
        found = [finding for finding in self.report.findings if (finding.check, finding.level) == (check, level)]
        assert len(found) == 1, f"{len(found)} of {check} with {level} in {self.report}"
        return found[0]

    def failed(self) -> set[str]:
        """Checks that say that something will fail."""
        return {finding.check for finding in self.report.findings if finding.level == "failure"}


def run_doctor(
    *options: str, prefix: Sequence[str] = (), before: str = "", environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """The command. ``prefix`` starts it; ``before`` are statements that its process runs first.

    Its settings are those of ``environment`` alone, whatever the run's backing.
    """
    settings = {"SHMTRANSPORT_BACKING": "auto", **(environment or {})}
    code = f"{before}\n{COMMAND}"
    with running_python(code, "doctor", *options, prefix=prefix, environment=settings) as process:
        stdout, stderr = process.communicate(timeout=TIMEOUT_S)
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def examined(
    *options: str, prefix: Sequence[str] = (), before: str = "", environment: Mapping[str, str] | None = None
) -> Examined:
    """What it says as JSON; the test fails if it prints anything else, or if its exit status says otherwise."""
    ran = run_doctor("--json", *options, prefix=prefix, before=before, environment=environment)
    assert ran.stderr == ""
    report = msgspec.json.decode(ran.stdout, type=Report)
    assert report.ok == all(finding.level != "failure" for finding in report.findings)
    assert ran.returncode == (0 if report.ok else 1)
    return Examined(ran.returncode, report)


def sockets_of(directory: Path) -> Path:
    """Where anonymous rings have their sockets if SHMTRANSPORT_SOCKET_DIRECTORY is ``directory``."""
    return directory / f"shmt-{os.geteuid()}"
