"""How much memory this process needs for a while, beyond what it has."""

import ctypes
import gc
from pathlib import Path

_ROOM_FOR_PEAK = "5"  # proc_pid_clear_refs(5): the peak begins anew


class Growth:
    """Begins with what is not needed given back to the kernel, so that memory taken before does not hide any."""

    def __init__(self) -> None:
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text(_ROOM_FOR_PEAK)
        self._before_nbytes = _resident("VmRSS")

    def nbytes(self) -> int:
        """The most that was resident since, less what was then. Shared memory that is mapped and used counts."""
        return max(0, _resident("VmHWM") - self._before_nbytes)


def _resident(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"no {name} in /proc/self/status")
