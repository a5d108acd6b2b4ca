"""What a backing does for a ring."""

import abc
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import ClassVar, TypeAlias

from shmtransport.config import BackingName
from shmtransport.errors import OutOfSharedMemoryError
from shmtransport.segment import room

Serve: TypeAlias = Callable[[int, str], None]
"""Has the core hand a ring's descriptors over: listening socket, its path."""


class Backing(abc.ABC):
    """Where segments come from. A segment's number is 0 for the control segment, else that of a data segment."""

    NAME: ClassVar[BackingName]
    CODE: ClassVar[int]
    """In a ring's header."""
    readers_only_read: ClassVar[bool]
    """The kernel lets no reader map a data segment writable."""

    @abc.abstractmethod
    def prefix(self, ring_id: str) -> str:
        """What every name of a ring begins with, without the leading slash; empty if its segments have none."""

    @abc.abstractmethod
    def created(self, ring_id: str, number: int) -> AbstractContextManager[int]:
        """A descriptor of a new, empty segment, mode 0600; no name is left if the block raises. `SegmentError`."""

    @abc.abstractmethod
    def opened(self, ring_id: str, number: int) -> AbstractContextManager[int]:
        """A descriptor of an existing segment. Raises `SegmentNotFoundError`, `SegmentError`; never waits for long."""

    @abc.abstractmethod
    def looked_at(self, uid: int, ring_id: str) -> AbstractContextManager[int]:
        """A descriptor of the control segment of a user's ring, for reading only. Raises what `opened` raises."""

    @abc.abstractmethod
    def announce(self, ring_id: str, serve: Serve) -> None:
        """The ring is complete: from here on `opened` finds its segments from every process of this user."""

    @abc.abstractmethod
    def free_nbytes(self) -> tuple[int, str]:
        """Bytes that segments may still take, and what sets that limit.

        Going over a cgroup's limit is not an error but a kill, so it is looked at first.
        """

    @abc.abstractmethod
    def rings(self) -> dict[str, list[str]]:
        """Paths of what this user's rings have names for, by ring id."""

    @abc.abstractmethod
    def known(self) -> list[tuple[int, str]]:
        """User and ring id of all rings whose names this user sees; other users' too, where they can be seen."""

    @abc.abstractmethod
    def sweep(self) -> list[str]:
        """Removes what dead processes left; returns the ids of the rings that went."""

    def check_free(self, *segments: int) -> None:
        """Raises `OutOfSharedMemoryError` if segments of so many bytes would not fit."""
        room.check(max(segments), room.file_nbytes())
        room.check(sum(segments), self.free_nbytes())

    def reserve(self, fd: int, nbytes: int) -> None:
        """Gives an empty segment its size and every one of its pages, or raises before any byte is written.

        ``ftruncate`` alone would promise pages that are not there: the first write is then a SIGBUS.
        """
        self.check_free(nbytes)
        try:
            os.posix_fallocate(fd, 0, nbytes)
        except OSError as error:
            raise self.out_of_memory(nbytes, error) from error

    def out_of_memory(self, asked_nbytes: int, error: OSError) -> OutOfSharedMemoryError:
        """What is raised if the pages were gone between the look and their reservation."""
        return OutOfSharedMemoryError(asked_nbytes, self.free_nbytes()[0], f"posix_fallocate: {error.strerror}")
