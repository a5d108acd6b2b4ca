"""Makes docs/fresh-machine.md: README, quickstart and an engine, done with the wheel on a Debian that has only Python.

    make fresh-machine                              # as root, or where mmdebstrap may make a chroot; five minutes
    make fresh-machine ARGS="--find-links FOLDER"   # with wheels of yours before PyPI's: torch's CPU build is smaller

The machine is a chroot that mmdebstrap makes from Debian's archive, with a /proc and a /dev/shm of its own and none of
this machine's variables. A step more is a line more in `STEPS`. If one fails, its output is shown and the document
stays as it was.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from shmtransport.host import cpu_model, cpus
from tests.meta.fences import program_of
from tests.support import ROOT

DOCUMENT = ROOT / "docs" / "fresh-machine.md"
PACKAGES = ["python3", "python3-venv", "ca-certificates"]
PROGRAMS = {
    "readme.py": ROOT / "README.md",
    "quickstart.py": ROOT / "docs" / "quickstart.md",
    "engine.py": ROOT / "docs" / "build-an-engine.md",
}
"""In the machine's home: the python blocks of these documents."""
ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "COLUMNS": "110",
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
}
STEP_TIMEOUT_S = 900.0
HEAD = """\
# On a fresh machine

What README.md, the [quickstart](quickstart.md) and [build an engine](build-an-engine.md) say, done with the wheel on a
Debian 12 that has nothing but Python: a chroot with a `/dev/shm` of its own, on {machine}. `make fresh-machine` did it
and wrote this page."""


class Step(NamedTuple):
    """A sentence, and what is typed at a prompt; it succeeds with exit status 0."""

    sentence: str
    command: str


STEPS = [
    Step("There is Python, and no compiler.", "python3 --version; command -v cc gcc clang || echo no compiler"),
    Step(
        "The wheel lies in `dist`, torch's CPU build in `wheels`, the versions that were tested in `constraints.txt`.",
        "python3 -m venv .venv && .venv/bin/pip install --quiet --only-binary=:all: --constraint constraints.txt"
        " --find-links dist --find-links wheels 'shmtransport[demo]'",
    ),
    Step("What will fail here, if anything?", ".venv/bin/shmtransport doctor"),
    Step("The program in README.md.", ".venv/bin/python readme.py && echo it ran"),
    Step("Those in docs/quickstart.md.", ".venv/bin/python quickstart.py"),
    Step("The engine of docs/build-an-engine.md.", ".venv/bin/python engine.py"),
    Step(
        "Photographs to another process. Other programs ran meanwhile: times to quote are in README.md.",
        ".venv/bin/shmtransport demo --images 1,10",
    ),
    Step("Nothing is left.", "ls -A /dev/shm | wc -l"),
]


@contextmanager
def machine(wheels: Path) -> Iterator[list[str]]:
    """A fresh one, and the command that starts the command behind it there.

    Its mounts are seen in a namespace of their own only, which ends before the folder is removed.
    """
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "machine")
        subprocess.run(
            ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(PACKAGES)}", "bookworm", root],
            check=True,
        )
        (root / "root" / "wheels").mkdir()
        (root / "root" / "dist").mkdir()
        for path in (ROOT / "dist").glob("*.whl"):
            shutil.copy(path, root / "root" / "dist")
        shutil.copy(ROOT / "constraints.txt", root / "root")
        shutil.copy("/etc/resolv.conf", root / "etc")
        shutil.copy("/etc/ssl/certs/ca-certificates.crt", root / "etc/ssl/certs")  # a proxy's certificate is known
        for name, document in PROGRAMS.items():
            (root / "root" / name).write_text(program_of(document.read_text()))
        mounts = (
            'mount -t proc proc "$0/proc" && mount -t sysfs -o ro sysfs "$0/sys" && '
            'mount -t tmpfs -o size=4g tmpfs "$0/dev/shm" && mount --bind "$1" "$0/root/wheels" && '
            "echo mounted && read -r _"
        )
        with subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", mounts, root, wheels],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as namespace:
            assert namespace.stdin is not None
            assert namespace.stdout is not None
            if namespace.stdout.readline() != "mounted\n":
                sys.exit(f"the machine's file systems could not be mounted in {root}")
            entering = ["nsenter", f"--target={namespace.pid}", "--mount", "chroot", str(root)]
            variables = [f"{name}={value}" for name, value in ENVIRONMENT.items()]
            yield [*entering, "env", "-i", *variables, "sh", "-c", 'cd && eval "$0" 2>&1']
            namespace.stdin.close()


def done(entering: Sequence[str], step: Step) -> str:
    """What it printed, without what only a terminal needs."""
    found = subprocess.run(
        [*entering, step.command], stdout=subprocess.PIPE, text=True, timeout=STEP_TIMEOUT_S, check=False
    )
    if found.returncode != 0:
        sys.exit(f"exit status {found.returncode}: {step.command}\n{found.stdout}")
    lines = re.sub(r"\x1b\[[0-9;]*m", "", found.stdout).splitlines()
    return "\n".join(line.rstrip() for line in lines).strip("\n")


def shown(step: Step) -> str:
    return f"$ {step.command}"


def written(outputs: dict[Step, str]) -> str:
    """The document."""
    parts = [HEAD.format(machine=f"{cpus()} CPUs of an {cpu_model()}")]
    for step, output in outputs.items():
        parts += [step.sentence, f"```console\n{shown(step)}\n{output}".rstrip() + "\n```"]
    return "\n\n".join(parts) + "\n"


def main(
    find_links: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Wheels that come before PyPI's.")] = None,
) -> None:
    """Does all steps on a fresh machine and writes docs/fresh-machine.md."""
    with tempfile.TemporaryDirectory() as nothing, machine(find_links or Path(nothing)) as entering:
        outputs = {}
        for step in STEPS:
            print(shown(step))
            outputs[step] = done(entering, step)
            print(outputs[step])
    DOCUMENT.write_text(written(outputs))


if __name__ == "__main__":
    typer.run(main)
