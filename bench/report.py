"""Writes docs/benchmarks.md and its plots from `bench/results/*.json`, and from nothing else.

    .venv-bench/bin/python bench/report.py            writes
    .venv-bench/bin/python bench/report.py --check    exit status 1 if what stands there is not what would be written
    make bench-record bench-report                    the figures anew, then the report

`bench/record.py` makes the files; each has the machine, the date and the versions in it, and a section of the report
says them. The same files give the same report, byte for byte, plots included (matplotlib is pinned in
constraints-bench.txt). A file that is missing leaves its section out. What a benchmark has to say beforehand is taken
from the head of its program, so that it stands in one place; what people have to say of the figures stands in
`bench/results/remarks.md` and is put in as it is.
"""

import argparse
import ast
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]  # where Python was told to run this file it finds its folder only

from bench import abuse  # noqa: E402
from bench.aims import lines  # noqa: E402
from bench.gemma3 import table  # noqa: E402

Row = dict[str, Any]
Results = Mapping[str, "Result"]

RESULTS: Final = ROOT / "bench" / "results"
DOCS: Final = ROOT / "docs"
HEAD: Final = """\
# Benchmarks

<!-- Written by `make bench-report` from bench/results/; not by hand. -->

Quote ratios, and of one run: machines differ, and a shared one differs from itself. Each section has its machine, its
date and the command that gives the figures again, and begins with what has to be known to read them. Every rival gets
the same bytes, in the mode that its documentation or its engine would choose, and what it brought is compared byte for
byte. Where a rival could not be measured it is named, with the reason.
"""


@dataclass(frozen=True)
class Result:
    """What `bench/record.py` wrote."""

    machine: str
    date: str
    versions: Mapping[str, str]
    command: str
    rows: list[Row]

    def facts(self) -> str:
        """Markdown."""
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        return f"{self.machine}; {self.date}; {versions}. `python {self.command}`\n"


def results_in(folder: Path) -> dict[str, Result]:
    """Of each file, by its name without the ending."""
    return {path.stem: Result(**json.loads(path.read_text())) for path in sorted(folder.glob("*.json"))}


def caveats(command: str) -> str:
    """The list under "Read this first" at the head of the program that it runs, and nothing if there is none."""
    program = ROOT / command.split()[0]
    docstring = ast.get_docstring(ast.parse(program.read_text())) if program.exists() else None
    _, _, rest = (docstring or "").partition("Read this first:\n")
    return rest.partition("\n\n")[0] + "\n" if rest else ""


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def figure(value: Any) -> str:
    """As people read it: four digits of a fraction, thousands apart."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: ""}[value]
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return str(value)


def any_table(rows: Sequence[Row]) -> str:
    """Of rows whose keys are not known here: a column a key, in the order in which they come."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    return markdown_table(
        [key.replace("_", " ") for key in keys], [[figure(row.get(key)) for key in keys] for row in rows]
    )


def plot(name: str, alt: str) -> str:
    """HTML that shows the plot for the reader's theme."""
    return (
        f'<picture>\n<source media="(prefers-color-scheme: dark)" srcset="benchmarks/{name}-dark.svg">\n'
        f'<img alt="{alt}" src="benchmarks/{name}-light.svg">\n</picture>\n'
    )


def compare_section(result: Result) -> Iterator[str]:
    """One request from process to process: each rival and payload, slowest last."""
    rows = [row for row in result.rows if row["median_ms"] is not None]
    payloads = dict.fromkeys(row["payload"] for row in result.rows)
    found = {(row["rival"], row["payload"]): row for row in rows}
    order = sorted(dict.fromkeys(row["rival"] for row in rows), key=lambda rival: _worst(rival, rows))

    def across(key: str) -> str:
        lines = [[rival, *(figure(found.get((rival, name), {}).get(key)) for name in payloads)] for rival in order]
        return markdown_table(["rival", *payloads], lines)

    yield plot("time", "time of a request against its bytes, one line a rival")
    yield "How many times as long as shmtransport each takes:\n"
    yield across("ratio_to_shmtransport")
    yield "Medians, in milliseconds:\n"
    yield across("median_ms")
    for name in ("9.6 MB", "10 x 9.6 MB"):
        lines = [found[rival, name] for rival in order if (rival, name) in found]
        if lines:
            yield f"{name} in detail; CPU and page faults are of both processes, the first request is of new ones:\n"
            yield markdown_table(*_details(lines))
    absent = dict.fromkeys((row["rival"], row["reason"]) for row in result.rows if row["median_ms"] is None)
    if absent:
        yield "Not measured:\n"
        yield "".join(f"* {rival}: {reason}\n" for rival, reason in absent)


def _worst(rival: str, rows: Sequence[Row]) -> float:
    return max(float(row["ratio_to_shmtransport"]) for row in rows if row["rival"] == rival)


def _details(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    columns = {
        "rival": "rival",
        "version": "version",
        "median_ms": "median ms",
        "p99_ms": "p99 ms",
        "gbps": "GB/s",
        "cpu_seconds": "CPU s",
        "faults": "page faults",
        "first_ms": "first request ms",
        "start_seconds": "start s",
    }
    return list(columns.values()), [[figure(row.get(key)) for key in columns] for row in rows]


def in_place_section(result: Result) -> Iterator[str]:
    """One table."""
    yield any_table(result.rows)


def issue_section(result: Result) -> Iterator[str]:
    """The table that began it."""
    yield plot("issue-16461", "seconds from the frontend's call to the engine's tensors, for 1 to 100 images, by way")
    yield table.as_table(result.rows) + "\n"


def _table_each(rows: Sequence[Row], *keys: str) -> Iterator[str]:
    """Of rows that agree in the values of ``keys``, under those as a heading."""
    for values in dict.fromkeys(tuple(row[key] for key in keys) for row in rows):
        yield f"### {', '.join(values)}\n"
        alike = [row for row in rows if tuple(row[key] for key in keys) == values]
        yield any_table([{key: row[key] for key in row if key not in keys} for row in alike])


def interference_section(result: Result) -> Iterator[str]:
    """A table an experiment."""
    return _table_each(result.rows, "experiment")


def gpu_section(result: Result) -> Iterator[str]:
    """A table a question and device."""
    return _table_each(result.rows, "what", "device")


def gpu_vllm_section(result: Result) -> Iterator[str]:
    """A table a device and release; milliseconds, which people compare."""
    rows: list[Row] = []
    for row in result.rows:
        times = {key.replace("_seconds", "_ms"): 1e3 * row[key] for key in row if key.endswith("_seconds")}
        kept = {key: row[key] for key in ("device", "vllm", "images", "plugin", "payload_nbytes")}
        share = f"{100 * row['transport_share']:.1f} %"
        rows.append({**kept, **times, "share": share, "verified": row["verified"], "vllm": f"vLLM {row['vllm']}"})
    return _table_each(rows, "device", "vllm")


def abuse_section(result: Result) -> Iterator[str]:
    yield abuse.as_table(result.rows) + "\n"


SECTIONS: Final[Mapping[str, tuple[str, Callable[[Result], Iterator[str]]]]] = {
    "compare": ("One request from process to process", compare_section),
    "in_place": ("In place, small and large by turns", in_place_section),
    "issue_16461": ("The issue that began it: vLLM 16461", issue_section),
    "interference": ("Tail and interference", interference_section),
    "gpu": ("To the GPU", gpu_section),
    "gpu_tensors": ("From a GPU to another process on it", gpu_section),
    "gpu_vllm": ("Real vLLM on one GPU", gpu_vllm_section),
    "gpu_vllm_tp2": ("Real vLLM on two GPUs", gpu_vllm_section),
    "abuse": ("What is left when things go wrong", abuse_section),
}


def report(results: Results, remarks: str) -> str:
    """docs/benchmarks.md."""
    parts = [HEAD]
    reached = markdown_table(["aim", "measured", ""], lines({name: result.rows for name, result in results.items()}))
    parts += ["## Aims\n", reached]
    if remarks:
        parts += [remarks]
    for name, (title, section) in SECTIONS.items():
        if name in results:
            parts += [f"## {title}\n", caveats(results[name].command), results[name].facts(), *section(results[name])]
    return "\n".join(filter(None, parts))


def pages(folder: Path = RESULTS, *, plots: bool = True) -> dict[str, str]:
    """Every file of the report, by its place in docs/. ``plots`` needs matplotlib. Without results there is none."""
    results = results_in(folder)
    if not results:
        return {}
    remarks = folder / "remarks.md"
    made = {"benchmarks.md": report(results, remarks.read_text() if remarks.exists() else "")}
    if plots:
        from bench.plots import drawn

        rows = {name: result.rows for name, result in results.items()}
        made |= {f"benchmarks/{name}.svg": svg for name, svg in drawn(rows).items()}
    return made


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing, say what differs")
    arguments = parser.parse_args()
    made = pages()
    stale = [name for name, text in made.items() if not (DOCS / name).exists() or (DOCS / name).read_text() != text]
    if arguments.check:
        print("\n".join(f"docs/{name} is not what bench/results gives" for name in stale), file=sys.stderr)
        return bool(stale)
    for name in stale:
        (DOCS / name).parent.mkdir(exist_ok=True)
        (DOCS / name).write_text(made[name])
    print("\n".join(f"docs/{name}" for name in stale) or "nothing has changed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
