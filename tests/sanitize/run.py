"""Runs pytest with the sanitized core, in this process's place and in all its children's: `make sanitize`.

Arguments are the C compiler and pytest's. Exit status 1 also if pytest is content and any process wrote a report, be it
at its very end.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from tests.sanitize.reports import environment, reports

ROOT = Path(__file__).resolve().parents[2]
PRELOADED = ROOT / "tests" / "sanitize" / "preloaded"


def runtimes(compiler: str) -> list[Path]:
    """What has to be loaded before Python: AddressSanitizer, and the C++ library whose exceptions it intercepts."""
    found = []
    for name in ("libasan.so", "libstdc++.so.6"):
        done = subprocess.run([compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=True)
        path = Path(done.stdout.strip())
        if not path.is_absolute():
            sys.exit(f"make sanitize needs {name}, which {compiler} does not have (Debian, Ubuntu: apt install gcc)")
        found.append(path.resolve())
    return found


def main(compiler: str, *arguments: str) -> int:
    # Everything takes several times as long, the start of a child above all.
    command = [sys.executable, "-m", "pytest", "-p", "tests.sanitize.reports", "--timeout=300", *arguments]
    with tempfile.TemporaryDirectory(prefix="shmtransport-sanitize-") as name:
        folder = Path(name)
        sanitized = environment(folder, runtimes(compiler), python=PRELOADED)
        status = subprocess.run(command, env=sanitized, cwd=ROOT, check=False).returncode
        found = reports(folder)
    for text in found.values():
        print(text, file=sys.stderr)
    if found:
        print(f"{len(found)} processes wrote a sanitizer's report", file=sys.stderr)
    return status or bool(found)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
