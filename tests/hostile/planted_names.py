"""Attack: things that are no segments, or not this user's, under the names of segments in /dev/shm.

There are two attackers. *Another user* may make any name in /dev/shm that is free, for everybody may, and sees all
names there, ring ids and all; the directory is sticky, so nobody but the owner removes what is planted. *This user* may
do the same with its own name on it: the plants of a program gone wild.

The victim creates rings, fills them, sweeps and joins. It must get its ring and its room wherever that needs none of
the names that were taken, a typed error where it does, and never a foreign byte. Nothing may hang: a FIFO is opened.
"""

import os
import secrets
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final

import torch

from shmtransport import Ring, layout
from tests.support import SHARED_MEMORY

# As root, victim and attacker become two others, so that the rights are those that everybody has. As anybody else,
# attacker and victim are both this user: what is then planted is owned by the victim itself.
IS_ROOT: Final = os.geteuid() == 0
VICTIM: Final = 20_000 + secrets.randbelow(20_000) if IS_ROOT else os.geteuid()
ATTACKER: Final = VICTIM + 20_000 if IS_ROOT else os.geteuid()


def become(uid: int) -> None:
    """Gives up all rights but those of ``uid``, in a forked child."""
    if IS_ROOT:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)


def path_of(ring_id: str, number: int | str = 0, uid: int = VICTIM) -> Path:
    """Of a segment."""
    return SHARED_MEMORY / f"shmt-{uid}-{ring_id}-{number}"


def folder(path: Path) -> None:
    path.mkdir(0o777)


def fifo(path: Path) -> None:
    os.mkfifo(path)


def unix_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


def link_to_a_file(path: Path) -> None:
    path.symlink_to("/etc/passwd")


def link_to_nothing(path: Path) -> None:
    path.symlink_to("/nonexistent/nothing")


def link_to_itself(path: Path) -> None:
    path.symlink_to(path)


def empty_file(path: Path) -> None:
    path.touch()


def file_of_zeros(path: Path) -> None:
    path.write_bytes(bytes(layout.control_nbytes(4)))


def file_of_ones(path: Path) -> None:
    path.write_bytes(b"\xff" * layout.control_nbytes(4))


def sparse_file(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 36)


def zero_device(path: Path) -> None:
    """Whose every read has bytes and every lock is free; only root can make one."""
    os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 5)) if IS_ROOT else path.touch()


PLANTS: Final[tuple[Callable[[Path], None], ...]] = (
    folder, fifo, unix_socket, link_to_a_file, link_to_nothing, link_to_itself, empty_file, file_of_zeros, file_of_ones,
    sparse_file, zero_device,
)  # fmt: skip


def plant(make: Callable[[Path], None], path: Path, owner: int = ATTACKER, mode: int = 0o777) -> None:
    """Makes the thing, owned by ``owner`` and open to everybody unless ``mode`` says otherwise."""
    make(path)
    if not path.is_symlink():
        path.chmod(mode)
    if IS_ROOT:
        os.chown(path, owner, owner, follow_symlinks=False)


def weed(*rings: str) -> None:
    """Removes everything under the names of these rings, whatever it is and whoever's."""
    for ring_id in rings:
        for path in SHARED_MEMORY.glob(f"*{ring_id}*"):
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()


def ring_works() -> None:
    """The victim makes a ring, and a tensor goes through it."""
    with Ring.create(capacity="128KiB", segment="64KiB", entries=4, copy_kernel="libc", backing="posix") as ring:
        tensor = ring.put(torch.arange(1000))
        assert ring.holds(tensor)
        assert torch.equal(torch.as_tensor(ring.open(bytes(ring.share(tensor, ring.peer_id)))), torch.arange(1000))
        del tensor
