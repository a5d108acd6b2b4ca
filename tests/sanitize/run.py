"""Runs pytest with the sanitized core, in this process's place and in all its children's: `make sanitize`.

Arguments are pytest's. Exit status 1 also if pytest is content and any process wrote a report, be it at its very end.
"""

import shutil
import subprocess
import sys
from pathlib import Path

from tests.sanitize.reports import environment, reports

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "build" / "sanitize" / "reports"
PRELOADED = ROOT / "tests" / "sanitize" / "preloaded"


def runtimes(compiler: str) -> list[Path]:
    """What has to be loaded before Python: AddressSanitizer, and the C++ library whose exceptions it intercepts."""
    found = []
    for name in ("libasan.so", "libstdc++.so.6"):
        done = subprocess.run([compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=True)
        path = Path(done.stdout.strip())
        if not path.is_absolute():
            sys.exit(f"make sanitize needs {name}, which {compiler} does not have: install gcc's own (apt install gcc)")
        found.append(path.resolve())
    return found


def main(compiler: str, *arguments: str) -> int:
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    command = [sys.executable, "-m", "pytest", "-p", "tests.sanitize.reports", *arguments]
    status = subprocess.run(
        command, env=environment(FOLDER, runtimes(compiler), python=PRELOADED), cwd=ROOT, check=False
    ).returncode
    found = reports(FOLDER)
    for name, text in found.items():
        print(f"== {name}\n{text}", file=sys.stderr)
    return status or bool(found)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
