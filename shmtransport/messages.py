"""What two channels say to each other, on the wire.

Every message is a list of frames, the first an envelope: 0xB7, version, kind, then a msgpack body.

    RING      here is a ring that you may get handles of; this is the host it is on
    JOINED    I have joined that ring, and this is my id in it
    REFUSED   I cannot; send me the bytes
    AGAIN     you sent a handle of a ring that I have not joined: introduce it (anew)
    OBJECT      an object; further frames hold its large inline tensors
"""

import os
from collections.abc import Sequence
from typing import Annotated, Final, TypeAlias

import msgspec

from shmtransport import host
from shmtransport.errors import HandleError, LayoutMismatchError
from shmtransport.handles import VERSION as HANDLE_VERSION
from shmtransport.layout import LAYOUT_VERSION
from shmtransport.segment.refusals import host_errors

MAGIC: Final = 0xB7
VERSION: Final = 1
RING, JOINED, REFUSED, AGAIN, OBJECT = range(1, 6)


class Host(msgspec.Struct, frozen=True):
    """What two processes must have alike to share by handle. That they see the same /dev/shm or socket is proved by
    joining: a ring's id has 128 random bits, so it is found in no other."""

    boot_id: str
    uid: int
    layout_version: int
    handle_version: int

    @classmethod
    def here(cls) -> "Host":
        """This process's."""
        with host_errors("tell which host this is"):
            boot_id = host.boot_id().hex()
        return cls(boot_id, os.geteuid(), LAYOUT_VERSION, HANDLE_VERSION)


Id: TypeAlias = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{32}$")]
"""Of a ring, or of a process in one."""


class Introduction(msgspec.Struct, frozen=True):
    """RING: a ring, and the host it is on."""

    ring_id: Id
    host: Host


class Answer(msgspec.Struct, frozen=True):
    """JOINED, REFUSED, AGAIN."""

    ring_id: Id
    peer_id: Id | None = None
    reason: str = ""


def envelope(kind: int, body: bytes) -> list[bytes | memoryview]:
    """The first frame of a message; further ones may follow."""
    return [bytes((MAGIC, VERSION, kind)) + body]


def opened(frames: Sequence[memoryview]) -> tuple[int, memoryview]:
    """Kind and body. Raises `HandleError` or `LayoutMismatchError` for what is not a message of this version."""
    if not frames or frames[0].nbytes < 3 or frames[0][0] != MAGIC:
        raise HandleError("expected a message of a shmtransport channel, got something else")
    if frames[0][1] != VERSION:
        raise LayoutMismatchError(
            f"expected channel version {VERSION}, got {frames[0][1]}: install the same at both ends"
        )
    return frames[0][2], frames[0][3:]
