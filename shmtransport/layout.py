"""The Python mirror of ``csrc/layout.h``, checked against the extension at import.

A wheel whose Python files and extension come from two builds would corrupt memory; it does not import.
"""

from enum import IntEnum
from typing import Final

from shmtransport import _core
from shmtransport.errors import LayoutMismatchError

LAYOUT_VERSION: Final = 1
INDICES: Final = 32
WRITER: Final = 0
TICKETS: Final = 2048
SEGMENTS: Final = 1024
NAME_NBYTES: Final = 32
PAGE_NBYTES: Final = 4096
ENTRY_NBYTES: Final = 64
ENTRIES_OFFSET: Final = 0x87000
LINE_NBYTES: Final = 64
PAGED_BLOCK_NBYTES: Final = 65536
BACKING_POSIX: Final = 1
BACKING_MEMFD: Final = 2


class InlineReason(IntEnum):
    """Why bytes went in the message instead of by handle."""

    SMALL = 0
    NOT_JOINED = 1
    FULL = 2
    NO_TICKET = 3
    UNMAPPABLE = 4
    ELSEWHERE = 5
    NOT_BACKED = 6


class Status(IntEnum):
    """Answers of the core that are not errors."""

    FULL = _core.CONSTANTS["FULL"]
    NO_ENTRY = _core.CONSTANTS["NO_ENTRY"]
    TIMEOUT = _core.CONSTANTS["TIMEOUT"]
    NOT_FOUND = _core.CONSTANTS["NOT_FOUND"]
    NOT_JOINED = _core.CONSTANTS["NOT_JOINED"]
    NO_TICKET = _core.CONSTANTS["NO_TICKET"]
    UNMAPPABLE = _core.CONSTANTS["UNMAPPABLE"]


def aligned_end(offset: int, nbytes: int) -> int:
    """Where the next block may begin, behind one of ``nbytes`` at ``offset``."""
    unit = PAGE_NBYTES if nbytes >= PAGED_BLOCK_NBYTES else LINE_NBYTES
    return -(-(offset + nbytes) // unit) * unit


def control_nbytes(entries: int) -> int:
    """Size of a control segment with a block table of ``entries``."""
    return -(-(ENTRIES_OFFSET + entries * ENTRY_NBYTES) // PAGE_NBYTES) * PAGE_NBYTES


def _check() -> None:
    mirror = {name: value for name, value in globals().items() if name.isupper() and name != "WRITER"}
    mirror |= {f"INLINE_{reason.name}": reason.value for reason in InlineReason}
    wrong = {
        name: (value, _core.CONSTANTS.get(name)) for name, value in mirror.items() if _core.CONSTANTS.get(name) != value
    }
    if wrong:
        raise LayoutMismatchError(
            f"the extension was built from another layout (Python, C): {wrong}; reinstall shmtransport"
        )


_check()
