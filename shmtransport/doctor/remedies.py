"""What gives a process more shared memory, for each of the limits that may be the least; and more files."""

import errno
import os
from typing import Final

from shmtransport.formatting import GIB
from shmtransport.segment.room import SHM_DIRECTORY

MORE_FILES: Final = "ulimit -n 65535 (docker run --ulimit nofile=65535, systemd LimitNOFILE=65535)"


def enlarged(limit: str, needed_nbytes: int, free_nbytes: int) -> str:
    """What gives room to ``needed_nbytes`` where ``limit`` (`Backing.free_nbytes`) has left ``free_nbytes``."""
    if limit == str(SHM_DIRECTORY):
        return dev_shm_of(needed_nbytes, "remount,")
    if "cgroup" in limit:
        missing = _gib(max(needed_nbytes - free_nbytes, 1))
        return (
            f"a memory limit higher by {missing} GiB: docker run --memory, Kubernetes resources.limits.memory, "
            "systemd MemoryMax="
        )
    return "lower SHMTRANSPORT_CAPACITY, or vLLM's --mm-processor-cache-gb"


def dev_shm_of(nbytes: int, how: str = "") -> str:
    """A /dev/shm of that size: in Docker, in Kubernetes, and where one may mount."""
    gib = _gib(nbytes)
    mount = f"mount -o {how}size={gib}g /dev/shm" if how else f"mount -t tmpfs -o size={gib}g tmpfs /dev/shm"
    return (
        f"docker run --shm-size={gib}g; Kubernetes: emptyDir {{medium: Memory, sizeLimit: {gib}Gi}} at /dev/shm; "
        f"elsewhere: {mount}"
    )


def usable_dev_shm(nbytes: int) -> str:
    """What makes a /dev/shm usable in which nothing can be made, by how it looks: the refusal says too little."""
    try:
        facts = os.statvfs(SHM_DIRECTORY)
        os.close(os.open(SHM_DIRECTORY, os.O_PATH))
    except OSError as error:
        return MORE_FILES if error.errno == errno.EMFILE else dev_shm_of(nbytes)
    if facts.f_flag & os.ST_RDONLY:
        return "mount -o remount,rw /dev/shm"
    if not os.access(SHM_DIRECTORY, os.R_OK | os.W_OK | os.X_OK, effective_ids=True):
        return "chmod 1777 /dev/shm"
    if facts.f_files and not facts.f_ffree:
        return "mount -o remount,nr_inodes=0 /dev/shm"
    return dev_shm_of(nbytes, "remount,")


def _gib(nbytes: int) -> int:
    return -(-nbytes // GIB)
