"""The C core on 64-bit ARM: it compiles without a warning, and its programs run in qemu's emulation of user processes.

That finds what holds on x86-64 only: intrinsics, instructions, widths, the sign of a plain char, the ABI, futexes and
locks by another table of system calls. Two things it cannot find. A missing memory order: qemu runs the threads on this
processor, and x86-64 keeps orders that ARM does not; for those there are ThreadSanitizer (`make stress`) and
docs/memory-model.md. And what pages of 64 KiB would break: qemu maps pages of this machine's size.

Needs Debian's cross compiler and qemu-user, so `make test-aarch64` runs it and `make test` does not.
"""

import json
import random
import subprocess
import sysconfig
from pathlib import Path

import pytest

from tests.stress.building import LEFT_OUT, WARNINGS, numbers_of, run
from tests.support import ROOT, compile_c

COMPILER = "aarch64-linux-gnu-gcc"
QEMU = ("qemu-aarch64", "-L", "/usr/aarch64-linux-gnu")
COMPILE = f"-std=gnu11 -O2 -g -pthread -Wpointer-arith -Wvla -Wundef -Wformat=2 {WARNINGS}".split()
CORE = sorted((ROOT / "csrc").glob("*.c"))
STRESS = [path for path in sorted((ROOT / "tests" / "stress").glob("*.c")) if path.name not in LEFT_OUT["address"]]
PYTHON_FACE = sorted((ROOT / "csrc" / "python").glob("*.c"))
# Writers, readers, blocks of each thread of each writer.
SIZES = [(1, 1, 4000), (2, 4, 1500), (8, 8, 200)]


@pytest.fixture(scope="session")
def core(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Its objects."""
    folder = tmp_path_factory.mktemp("core")
    compile_c(*COMPILE, "-c", *CORE, cwd=folder, compiler=COMPILER)
    return sorted(folder.glob("*.o"))


def program(folder: Path, core: list[Path], *sources: Path) -> Path:
    include = ("-I", ROOT / "csrc")
    compile_c(*COMPILE, *include, *sources, *core, "-o", folder / "program", cwd=folder, compiler=COMPILER)
    return folder / "program"


@pytest.fixture(scope="session")
def stress(core: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return program(tmp_path_factory.mktemp("stress"), core, *STRESS)


def test_every_file_of_the_core_compiles_without_a_warning(core: list[Path]) -> None:
    assert [path.stem for path in core] == [path.stem for path in CORE]


# With the headers of this machine's Python: those of both machines describe the same sizes of C's types.
def test_its_python_face_compiles_without_a_warning(tmp_path: Path) -> None:
    limited = "-DPy_LIMITED_API=0x030B0000"
    include = ("-I", ROOT / "csrc", "-isystem", sysconfig.get_path("include"))
    compile_c(*COMPILE, "-fPIC", limited, *include, "-c", *PYTHON_FACE, cwd=tmp_path, compiler=COMPILER)
    assert len(list(tmp_path.glob("*.o"))) == len(PYTHON_FACE)


@pytest.mark.parametrize(("writers", "readers", "blocks"), SIZES, ids=[f"{w}x{r}" for w, r, _ in SIZES])
def test_no_byte_is_wrong_and_all_comes_back(
    stress: Path, writers: int, readers: int, blocks: int, rng: random.Random
) -> None:
    numbers = numbers_of(run(stress, writers, readers, rng.randrange(2**32), blocks, prefix=QEMU))
    print(numbers)
    assert numbers["blocks"] == writers * blocks * 2
    assert min(numbers[event] for event in ("opened", "forwarded", "revoked", "grown", "rings")) > 0


def test_copies_are_right_and_only_libc_offers_them(core: list[Path], tmp_path: Path) -> None:
    copies = program(tmp_path, core, ROOT / "tests" / "aarch64" / "copies.c")
    done = subprocess.run([*QEMU, copies], capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["kernels"] == 1  # the others are x86-64's instructions
