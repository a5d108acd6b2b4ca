"""Facts about this host and process that two places must state alike. Nothing is decided by them but the boot id."""

import os
import platform
from pathlib import Path


def boot_id() -> bytes:
    """Of the running kernel, 16 bytes: differs on every host and after every reboot."""
    return bytes.fromhex(Path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", ""))


def start_time() -> int:
    """Of this process, in clock ticks after boot: proc(5), field 22 of stat."""
    return int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])


def cpu_model() -> str:
    """What /proc/cpuinfo calls the processor; the architecture where, as on aarch64, it names no model."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def cpus() -> int:
    """Processors that this process may run on."""
    return len(os.sched_getaffinity(0))
