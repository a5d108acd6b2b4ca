"""Real vLLM on GPUs, the plugin off and on: what of a request with images is their way to the device.

Read this first:
* Gemma 3 in the shape of its 12B release with dummy weights, bfloat16, eager; images of 896 x 896 never seen before, no
  cache of images, one request at a time, one token. Answers do not depend on the pixels then; the pixels on each
  rank's device are hashed instead, in one request of each size that does not count.
* hop 1: the plugin's copy into the ring, and from the client's `add_request` until the EngineCore has decoded it.
  Enqueue and receive: the EngineCore's message to its workers, where they are processes of their own (tensor
  parallelism 2). Pin: the worker merging a step's images into one pinned tensor. Copy: from there until the device has
  it. The share is that of all five in the request, preprocessing and model counted in.
* The recorder makes a worker wait for the copy to the device before the encoder is started, with the plugin off and on.
* On and off run one after the other, in an engine each; the digests are compared between them. Before them one more
  engine answers a few requests that do not count: what it compiles stays on disk for both. Preprocessing and model
  drift by a third within minutes on a rented host, so that the requests of one engine say little of the next:
  `--rounds 2` has engines on, off, off, on.

    python bench/gpu_vllm.py                                    one GPU
    python bench/gpu_vllm.py --tensor-parallel 2 --json         one list and nothing else
    python bench/gpu_vllm.py --shape tiny --images 1,10         a dry run on a machine without a GPU
    python bench/gpu_vllm.py --keep FOLDER                      keeps what the processes printed and recorded there

Progress goes to stderr. Exit status 1 if a device had other pixels with the plugin on.
"""

import argparse
import contextlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]  # where Python was told to run this file it finds its folder only

from bench.gpu_serving.report import Row, Sample, Served  # noqa: E402
from bench.machine import machine  # noqa: E402
from shmtransport.demo_vllm import recorder, records  # noqa: E402
from shmtransport.demo_vllm import run as demo  # noqa: E402
from shmtransport.demo_vllm.processes import run_module  # noqa: E402

TIMES = ("prepare", "hop 1", "enqueue", "receive", "pin", "copy", "answer")
ENVIRONMENT = {**demo.ENVIRONMENT, "VLLM_CPU_OMP_THREADS_BIND": "nobind"}


def say(text: str) -> None:
    """To whoever waits."""
    print(text, file=sys.stderr, flush=True)


class Progress:
    """Tells whoever waits what a child process says of its progress."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._said = 0

    def __call__(self) -> None:
        lines = [line for line in self._log.read_text(errors="replace").splitlines() if " images: " in line]
        for line in lines[self._said :]:
            say(line)
        self._said = len(lines)


def run(folder: Path, name: str, module: str, *args: object, environment: Mapping[str, str]) -> None:
    """Runs a module of `gpu_serving`, which finds this repository."""
    path = os.pathsep.join([str(ROOT), *filter(None, [environment.get("PYTHONPATH")])])
    log = folder / f"{name}.log"
    run_module(
        f"bench.gpu_serving.{module}",
        *args,
        environment={**ENVIRONMENT, **environment, "PYTHONPATH": path},
        log=log,
        look=Progress(log),
    )


def served(folder: Path, options: argparse.Namespace, *, plugin: bool, name: str) -> tuple[Served, list[records.Event]]:
    """One engine, from its start to its end."""
    record, result = folder / f"{name}.record", folder / f"{name}.json"
    environment = recorder.environment(recorder.install(folder / f"{name}.plugins"), record, digests=False)
    environment["SHMTRANSPORT_ENABLE"] = str(int(plugin))
    args = (options.shape, folder / "model", result, options.tensor_parallel, options.images, options.repetitions)
    say(f"engine {name}")
    run(folder, name, "serve", *args, environment=environment)
    return msgspec.json.decode(result.read_bytes(), type=Served), records.read(record)


def rows(folder: Path, options: argparse.Namespace) -> Iterator[Row]:
    """For each number of images the plugin off, then on."""
    run(folder, "shape", "shape", options.shape, folder / "model", environment=os.environ)
    few = argparse.Namespace(**{**vars(options), "images": options.images.split(",")[0], "repetitions": 1})
    served(folder, few, plugin=False, name="warm-up")
    found: dict[bool, list[tuple[Served, list[records.Event]]]] = {True: [], False: []}
    for number in range(2 * options.rounds):
        plugin = number % 4 in (0, 3)
        found[plugin].append(served(folder, options, plugin=plugin, name=f"{number} {'on' if plugin else 'off'}"))
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"

    def samples(plugin: bool, images: int, *, warm_up: bool) -> list[Sample]:
        return [
            Sample.of(each, events)
            for engine, events in found[plugin]
            for each in (engine.warm_up if warm_up else engine.measured)
            if each.images == images
        ]

    for images in map(int, options.images.split(",")):
        seen = [sample.digests for plugin in (False, True) for sample in samples(plugin, images, warm_up=True)]
        verified = all(seen[0] == each for each in seen) and all(digest for _, digest in seen[0]) and bool(seen[0])
        for plugin in (False, True):
            what = (found[plugin][0][0].version, device, options.tensor_parallel, images, plugin)
            yield Row.of(what, samples(plugin, images, warm_up=False), verified=verified)


def as_table(found: list[Row]) -> str:
    """For people."""
    head = f"{machine()}; {found[0].device}, torch {torch.__version__}, vLLM {found[0].vllm}"
    lines = [f"{head}, tensor parallelism {found[0].tensor_parallel}", ""]
    lines += [f"{'images':>6} plugin  " + " ".join(f"{name:>8}" for name in TIMES) + "  request, share; times in ms"]
    for row in found:
        hops = (row.hop1_seconds, row.enqueue_seconds, row.receive_seconds, row.pin_seconds, row.copy_seconds)
        times = (row.prepare_seconds, *hops, row.answer_seconds)
        shown = " ".join(f"{1e3 * seconds:8.2f}" for seconds in times)
        share = f"{1e3 * row.request_seconds:8.1f} ms, {100 * row.transport_share:5.1f} %"
        lines.append(f"{row.images:>6} {'on' if row.plugin else 'off':>6}  {shown}  {share}")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print the list and nothing else")
    parser.add_argument("--shape", choices=("gemma-3-12b", "tiny"), default="gemma-3-12b")
    parser.add_argument("--tensor-parallel", type=int, default=1)
    parser.add_argument("--images", default="1,10,50,100", help="of a request; several numbers, with commas")
    parser.add_argument("--rounds", type=int, default=1, help="of an engine with the plugin on and one with it off")
    parser.add_argument("--repetitions", type=int, default=5, help="requests of each size to each engine")
    parser.add_argument("--keep", type=Path, help="a folder that does not exist yet, for what processes printed")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="shmtransport-bench-")))
        if options.keep:
            stack.callback(shutil.copytree, folder, options.keep)
        found = list(rows(folder, options))
    printed: list[Any] = msgspec.to_builtins(found)
    print(json.dumps(printed) if options.json else as_table(found))
    return 0 if all(row.verified for row in found) else 1


if __name__ == "__main__":
    sys.exit(main())
