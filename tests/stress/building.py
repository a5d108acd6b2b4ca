"""Builds the C stress program for one of two sanitizers, whole or with one file of the core changed, and runs it."""

import json
import os
import shlex
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tests.support import ROOT, compile_c

Form = Literal["thread", "address"]
Numbers = dict[str, int | float]

FOLDER = ROOT / "build" / "stress"
WARNINGS = "-Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wconversion -Wno-sign-conversion -Werror"
COMMON = f"-std=gnu11 -O1 -g -fno-omit-frame-pointer -pthread {WARNINGS}"
COMPILE: dict[Form, str] = {
    "thread": f"{COMMON} -fsanitize=thread -DONE_ADDRESS",
    "address": f"{COMMON} -fsanitize=address,undefined -fno-sanitize-recover=all",
}
LINK: dict[Form, str] = {
    "thread": "-fsanitize=thread -pthread -Wl,--wrap=shmt_lock_hold,--wrap=shmt_lock_release,--wrap=shmt_lock_during",
    "address": "-fsanitize=address,undefined -pthread",
}
# What the forms differ in: see the heads of these files.
LEFT_OUT: dict[Form, set[str]] = {"thread": {"mapping.c"}, "address": {"one_address.c", "kernel_order.c"}}

FOUND = 66
"""Exit status of a run in which a sanitizer found something; 1 is the program's own finding."""

FACTOR = int(os.environ.get("SHMTRANSPORT_STRESS_FACTOR", "1"))
"""Multiplies the blocks that are written; more than 1 is for long runs."""

HANGS_S = 150 * FACTOR

OPTIONS = {
    "TSAN_OPTIONS": f"halt_on_error=1:exitcode={FOUND}:second_deadlock_stack=1",
    "ASAN_OPTIONS": f"detect_leaks=1:detect_stack_use_after_return=1:strict_string_checks=1:exitcode={FOUND}",
    "UBSAN_OPTIONS": f"halt_on_error=1:print_stacktrace=1:exitcode={FOUND}",
}


@dataclass(frozen=True)
class Change:
    """Another text in one file of the core."""

    file: str
    replaced: tuple[tuple[str, str], ...]

    def write(self, folder: Path) -> Path:
        text = (ROOT / "csrc" / self.file).read_text()
        for old, new in self.replaced:
            assert text.count(old) == 1, f"{self.file} has this {text.count(old)} times, not once: {old}"
            text = text.replace(old, new)
        path = folder / self.file
        path.write_text(text)
        return path


def build(form: Form) -> Path:
    """The program; its objects stay beside it, for `build_changed`."""
    folder = FOLDER / form
    folder.mkdir(parents=True, exist_ok=True)
    sources = [path for path in (ROOT / "csrc").glob("*.c") if path.name not in LEFT_OUT[form]]
    sources += [path for path in (ROOT / "tests" / "stress").glob("*.c") if path.name not in LEFT_OUT[form]]
    compile_c(*COMPILE[form].split(), "-I", ROOT / "csrc", "-c", *sources, cwd=folder)
    compile_c(*LINK[form].split(), *(f"{path.stem}.o" for path in sources), "-o", "stress", cwd=folder)
    return folder / "stress"


def build_changed(form: Form, change: Change, folder: Path) -> Path:
    """The program with ``change``, in ``folder``; after `build`."""
    changed = change.write(folder)
    compile_c(*COMPILE[form].split(), "-I", ROOT / "csrc", "-c", changed, cwd=folder)
    objects = [path for path in (FOLDER / form).glob("*.o") if path.stem != changed.stem]
    compile_c(*LINK[form].split(), *objects, changed.with_suffix(".o"), "-o", "stress", cwd=folder)
    return folder / "stress"


def run(
    program: Path, writers: int, readers: int, seed: int, blocks: int, prefix: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """``prefix`` is a command that starts the command behind it."""
    with tempfile.TemporaryDirectory(prefix="shmt-") as folder:
        command = [*prefix, str(program), *map(str, (writers, readers, seed, blocks)), folder]
        try:
            return subprocess.run(
                command, env={**os.environ, **OPTIONS}, capture_output=True, text=True, timeout=HANGS_S, check=False
            )
        except subprocess.TimeoutExpired as expired:
            raise AssertionError(f"hung: {shlex.join(command)}\n{expired.stderr!r}") from None


def numbers_of(done: subprocess.CompletedProcess[str]) -> Numbers:
    """What the run counted; the test fails if the program or its sanitizer found anything."""
    assert done.returncode == 0, f"exit status {done.returncode}: {shlex.join(done.args)}\n{done.stdout}{done.stderr}"
    numbers: Numbers = json.loads(done.stdout)
    return numbers
