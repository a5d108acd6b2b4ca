"""How the kernel and systemd are set up for shared memory: huge pages, and whether names outlive a session."""

import os
import pwd
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from shmtransport.doctor.findings import Finding
from shmtransport.doctor.mounts import mount_of
from shmtransport.doctor.situation import Situation
from shmtransport.segment.room import SHM_DIRECTORY

_SHMEM = "sys/kernel/mm/transparent_hugepage/shmem_enabled"
_HUGE: Final = {"always", "within_size", "force"}
_COST: Final = "rings grow and are mapped more slowly, messages are as fast"


def huge_pages(situation: Situation) -> Iterator[Finding]:
    """For new pages only: growth, and mapping what has grown. For /dev/shm its mount decides, for anonymous segments a
    setting of the kernel, which may also overrule all mounts."""
    text = (situation.root / _SHMEM).read_text()
    chosen = text.partition("[")[2].partition("]")[0]
    mounted = chosen if chosen in {"force", "deny"} else mount_of(SHM_DIRECTORY).options.get("huge", "never")
    backings = (
        ("/dev/shm", f"huge={mounted}", mounted, "mount -o remount,huge=within_size /dev/shm"),
        ("memfd", f"shmem_enabled is {chosen}", chosen, f"echo within_size > /{_SHMEM}"),
    )
    for place, said, setting, remedy in backings:
        if setting in _HUGE:
            yield Finding("huge pages", "ok", f"{place} has them ({said})")
        else:
            yield Finding("huge pages", "note", f"{place} has none ({said}): {_COST}", remedy)


def remove_ipc(situation: Situation) -> Iterator[Finding]:
    """systemd-logind removes a user's names in /dev/shm when their last session ends: logind.conf(5)."""
    root, uid = situation.root, os.geteuid()
    if not (root / "run/systemd/system").is_dir():
        yield Finding("RemoveIPC", "ok", "no systemd here: nothing removes segments when a user logs out")
    elif uid <= _last_system_user(root):
        yield Finding("RemoveIPC", "ok", f"user {uid} is a system user, whose segments systemd-logind leaves alone")
    elif (root / "var/lib/systemd/linger" / _name_of(uid)).exists():
        yield Finding("RemoveIPC", "ok", f"user {_name_of(uid)} lingers: systemd-logind leaves their segments alone")
    elif _logind(root, "RemoveIPC", "yes").lower() in {"no", "false", "off", "0", "n", "f"}:
        yield Finding("RemoveIPC", "ok", "no: segments outlive their user's sessions")
    else:
        yield Finding(
            "RemoveIPC",
            "warning",
            f"yes: when user {_name_of(uid)} logs out, systemd-logind removes the names of their rings in /dev/shm, "
            "which nobody can join from then on",
            "RemoveIPC=no in /etc/systemd/logind.conf, and systemctl restart systemd-logind; or loginctl enable-linger",
        )


def _last_system_user(root: Path) -> int:
    """As systemd has it; login.defs may say otherwise, and has it in a comment where it does not."""
    try:
        said = re.search(r"^\s*SYS_UID_MAX\s+(\d+)", (root / "etc/login.defs").read_text(), flags=re.M)
    except OSError:
        said = None
    return int(said[1]) if said else 999


def _name_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _logind(root: Path, key: str, default: str) -> str:
    """The last word on ``key``: of the first logind.conf there is, or of the drop-ins, by their file names. Where a
    distribution compiles in another default its logind.conf has that in a comment."""
    folders = [root / folder for folder in ("etc/systemd", "run/systemd", "usr/local/lib/systemd", "usr/lib/systemd")]
    drop_ins: dict[str, Path] = {}
    for folder in reversed(folders):
        drop_ins |= {path.name: path for path in (folder / "logind.conf.d").glob("*.conf")}
    main = [path.read_text() for folder in folders if (path := folder / "logind.conf").exists()][:1]
    texts = [*main, *(drop_ins[name].read_text() for name in sorted(drop_ins))]
    said: list[str] = [value for text in texts for value in re.findall(rf"^\s*{key}\s*=\s*(\S+)", text, flags=re.M)]
    compiled_in: list[str] = [
        value for text in main for value in re.findall(rf"^#\s*{key}\s*=\s*(\S+)", text, flags=re.M)
    ]
    return (said or compiled_in or [default])[-1]
