"""How much memory this process needs for a while, beyond what it has."""

from pathlib import Path

_FORGET_THE_PEAK = "5"  # proc_pid_clear_refs(5): VmHWM becomes VmRSS


class Growth:
    """Since it was made. A heap that keeps what was freed before hides some of it."""

    def __init__(self) -> None:
        Path("/proc/self/clear_refs").write_text(_FORGET_THE_PEAK)
        self._before_nbytes = _resident("VmRSS")

    def nbytes(self) -> int:
        """The most that was resident since, less what was then. Shared memory that is mapped and used counts."""
        return max(0, _resident("VmHWM") - self._before_nbytes)


def _resident(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"no {name} in /proc/self/status")
