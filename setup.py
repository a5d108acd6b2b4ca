"""Builds the C extension ``shmtransport._core``; everything else about the package is in pyproject.toml.

The extension keeps to the limited API of Python 3.11, so that one wheel serves 3.11 and every later version.
``SHMTRANSPORT_WERROR=1`` makes every C warning an error; `make lint` sets it. It is off by default because a
compiler newer than the tested ones may warn about something that is no reason for an installation to fail.
``SHMTRANSPORT_SANITIZE=address,undefined`` builds it with those sanitizers, which end the process at what they find;
their runtime has to be preloaded. `make sanitize` does both.
``SHMTRANSPORT_KILL_POINTS=1`` makes a core for crash tests (csrc/kill_points.h); give it a ``--build-lib`` of its own.
"""

import os
import shutil
import sys
import sysconfig
from glob import glob
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

# Conversions that may lose bits are warned about (a length cut short is silent corruption); a change of sign
# alone is not.
WARNINGS = (
    "-Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith -Wvla -Wundef"
    " -Wformat=2 -Wconversion -Wno-sign-conversion"
).split()
if os.environ.get("SHMTRANSPORT_WERROR") == "1":
    WARNINGS.append("-Werror")

SANITIZERS: list[str] = []
SANITIZERS_LINKED: list[str] = []
if sanitize := os.environ.get("SHMTRANSPORT_SANITIZE"):
    SANITIZERS = [f"-fsanitize={sanitize}", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"]
    # gcc has a runtime for each, with functions of the same names. UndefinedBehaviorSanitizer's must find its own: with
    # those of AddressSanitizer it does not write its report where log_path says.
    SANITIZERS_LINKED = [f"-fsanitize={sanitize}", "-static-libubsan", "-Wl,--exclude-libs,libubsan.a"]


OPTIONS = "-std=gnu11 -O2 -g -fvisibility=hidden -pthread".split()
# The same sources give the same bytes in whichever folder they lie: debuggers are told of paths relative to it.
OPTIONS.append(f"-ffile-prefix-map={Path(__file__).resolve().parent}=.")

MACROS: list[tuple[str, str | None]] = [("Py_LIMITED_API", "0x030B0000")]
if os.environ.get("SHMTRANSPORT_KILL_POINTS") == "1":
    MACROS.append(("SHMT_KILL_POINTS", None))


class BuildExtension(build_ext):
    """``build_ext`` that says in one line what is missing, before the compiler says it in fifty."""

    def build_extensions(self) -> None:
        compiler = self.compiler.compiler_so[0]
        if shutil.which(compiler) is None:
            sys.exit(f"shmtransport: no C compiler: {compiler!r} is not on PATH; install gcc or name yours in CC")
        header = Path(sysconfig.get_path("include"), "Python.h")
        if not header.exists():
            sys.exit(f"shmtransport: no {header}: install this Python's headers (Debian: python3-dev)")
        super().build_extensions()


core = Extension(
    "shmtransport._core",
    sources=sorted(glob("csrc/*.c") + glob("csrc/python/*.c")),
    # Objects are not tracked one by one: a change of any header, layout.h above all, builds everything again.
    depends=["setup.py", *sorted(glob("csrc/**/*.h", recursive=True))],
    include_dirs=["csrc"],
    define_macros=MACROS,
    extra_compile_args=[*OPTIONS, *WARNINGS, *SANITIZERS],
    extra_link_args=["-pthread", *SANITIZERS_LINKED],
    py_limited_api=True,
)

setup(
    ext_modules=[core],
    cmdclass={"build_ext": BuildExtension},
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
