"""What the demo sends, and the memory that takes."""

from dataclasses import dataclass, replace
from typing import Self

from shmtransport.demo.photographs import image_nbytes
from shmtransport.demo.room import Room
from shmtransport.demo.transports import WAYS

WARM_UP = 2
"""Requests of every kind that are verified like all others, but not measured."""

PAGE_NBYTES = 4096
CONTROL_NBYTES = 4 << 20
"""More than the ring's control segment takes."""
PROCESSES_NBYTES = 1 << 30
"""More than both processes take before the first image."""
COPIES = 9
"""Of the largest request, that are in memory when it is pickled at one end and unpickled at the other."""


@dataclass(frozen=True)
class Settings:
    """What to send: every number of images in every dtype, ``requests`` times, by every transport."""

    images: tuple[int, ...] = (1, 10, 50)
    dtypes: tuple[str, ...] = ("float32", "bfloat16")
    requests: int = 15

    @property
    def images_in_all(self) -> int:
        """How many images will be sent, those of the warm-up too."""
        return len(WAYS) * len(self.dtypes) * (WARM_UP + self.requests) * sum(self.images)

    @property
    def ring_nbytes(self) -> int:
        """The largest request, and two images for what stays free at the ring's end and before its oldest block."""
        return (max(self.images) + 2) * self._block_nbytes

    @property
    def room(self) -> Room:
        """What both processes will take."""
        return Room(
            self.ring_nbytes + CONTROL_NBYTES, PROCESSES_NBYTES + COPIES * max(self.images) * self._block_nbytes
        )

    def fitted(self, room: Room) -> Self:
        """The same with the largest requests that ``room`` is enough for, but of one image at least."""
        shared = (room.shared_nbytes - CONTROL_NBYTES) // self._block_nbytes - 2
        private = (room.memory_nbytes - PROCESSES_NBYTES) // (COPIES * self._block_nbytes)
        most = max(1, min(shared, private))
        return replace(self, images=tuple(dict.fromkeys(min(images, most) for images in self.images)))

    @property
    def _block_nbytes(self) -> int:
        largest = max(map(image_nbytes, self.dtypes))
        return -(-largest // PAGE_NBYTES) * PAGE_NBYTES
