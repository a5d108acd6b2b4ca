"""What /dev/shm is, by /proc/self/mountinfo (proc(5))."""

from pathlib import Path
from typing import NamedTuple

_MOUNTS = Path("/proc/self/mountinfo")


class Mount(NamedTuple):
    """The file system that a path lies in."""

    kind: str
    """As mount(8) calls it: tmpfs, ext4, …"""
    options: dict[str, str]
    """Of the file system itself; one without a value has an empty one."""


def mount_of(path: Path) -> Mount:
    """What was mounted last over ``path``, or over the nearest folder above it. Raises `OSError`."""
    found, place_of_found = Mount("", {}), ""
    for line in _MOUNTS.read_text().splitlines():
        place, (kind, _, options) = line.split()[4], line.partition(" - ")[2].split(" ", 2)
        if path.is_relative_to(place) and len(place) >= len(place_of_found):
            named = {name: value for name, _, value in (option.partition("=") for option in options.split(","))}
            found, place_of_found = Mount(kind, named), place
    return found
