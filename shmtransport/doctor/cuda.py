"""Whether a process that uses CUDA could register a ring for DMA. No context is made (`devices`, docs/gpu.md)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec
import torch

from shmtransport import _core
from shmtransport.config import PINNED, pinned_budget_nbytes
from shmtransport.doctor import child, devices
from shmtransport.doctor.findings import Finding
from shmtransport.doctor.situation import Situation
from shmtransport.formatting import size

_TIMEOUT_S: Final = 20.0
_NODE: Final = "dev/nvidiactl"
_VISIBLE: Final = "CUDA_VISIBLE_DEVICES"
_STAGED: Final = "copies from a ring to the GPU are staged by CUDA, at a fraction of the rate"


class _Device(msgspec.Struct, frozen=True):
    name: str
    registers: bool
    read_only: bool


class _Driver(msgspec.Struct, frozen=True):
    release: int
    """CUDA's, as 1000 times the major one and 10 times the minor one."""
    devices: list[_Device]


def cuda(situation: Situation) -> Iterator[Finding]:
    """The driver, its devices, torch, and the budget; each as far as the one before it is there."""
    missing = _core.cuda_load(devices.DRIVER)
    if missing == devices.DRIVER and not (situation.root / _NODE).exists():
        yield Finding("cuda", "ok", "no driver here, so nothing has to be registered")
    elif missing == devices.DRIVER:
        text = f"expected a driver, as there is a GPU (/{_NODE}), but {missing} cannot be loaded"
        yield Finding("cuda", "warning", text, "docker run --gpus all -e NVIDIA_DRIVER_CAPABILITIES=compute,utility")
    elif missing is not None:
        text = f"expected a driver of CUDA 12.5 or newer, this one has no {missing}: {_STAGED}"
        yield Finding("cuda", "warning", text, "install an NVIDIA driver of release 555 or newer")
    else:
        path, environment = str(Path(devices.__file__)), situation.environment
        try:
            answer = child.answer_of([path], timeout_s=_TIMEOUT_S, environment=environment)
        except child.ChildError as error:
            text = f"expected the driver to tell its devices, got: {error}"
            yield Finding("cuda", "warning", text, "nvidia-smi says more")
            return
        yield from _registration(situation, msgspec.json.decode(answer, type=_Driver))


def _registration(situation: Situation, driver: _Driver) -> Iterator[Finding]:
    release = f"CUDA {driver.release // 1000}.{driver.release % 1000 // 10}"
    if not driver.devices:
        remedy = f"unset {_VISIBLE}" if _VISIBLE in situation.environment else "docker run --gpus all"
        yield Finding("cuda", "note", f"{release}, but this process sees no device", remedy)
        return
    names = ", ".join(sorted({device.name for device in driver.devices}))
    found = f"{len(driver.devices)} x {names}, {release}"
    if torch.version.cuda is None:
        text = f"{found}, but this torch ({torch.__version__}) has no CUDA"
        yield Finding("cuda", "note", text, "install a torch with CUDA, if this is where the GPU is used from")
        return
    if unable := [device.name for device in driver.devices if not (device.registers and device.read_only)]:
        text = f"expected devices that register read-only memory, {unable[0]} does not: {_STAGED}"
        yield Finding("cuda", "warning", text)
        return
    yield Finding("cuda", "ok", f"{found}: a ring can be registered for DMA")
    budget_nbytes, ring_nbytes = pinned_budget_nbytes(situation.environment), situation.wanted_nbytes()
    if budget_nbytes < ring_nbytes:
        text = f"expected to register {size(ring_nbytes)}, {PINNED} allows {size(budget_nbytes)}: beyond it {_STAGED}"
        yield Finding("cuda", "warning", text, f"{PINNED}={ring_nbytes}")
