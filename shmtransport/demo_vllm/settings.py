"""What the demo asks, and the memory that takes."""

from dataclasses import dataclass, replace
from typing import Final, Self

from shmtransport.demo.photographs import image_nbytes
from shmtransport.demo.room import Room

WARM_UP: Final = 1
"""Requests of every size that are not measured."""
REPETITIONS: Final = 5
"""Requests behind each median."""
COMPARED: Final = (1, 10)
"""Images in the requests whose answers are compared, whatever is measured."""

IMAGE_NBYTES: Final = image_nbytes("float32")
IMAGE_TOKENS: Final = 64
TEXT_TOKENS: Final = 1024
"""More than the question and its answer take."""

CACHE_NBYTES: Final = 4 << 30
"""vLLM's default for its cache of images: what was sent stays in the EngineCore up to here."""
PROCESSES_NBYTES: Final = 4 << 30
"""More than vLLM's processes take before the first image."""
COPIES: Final = 6
"""Of the largest request, that are in memory while the frontend prepares it or the worker computes on it."""


@dataclass(frozen=True)
class Settings:
    """How many images a request has: each number is asked REPETITIONS times, after WARM_UP."""

    images: tuple[int, ...] = (1, 10, 50)

    @property
    def images_in_all(self) -> int:
        """How many images one vLLM is sent."""
        return (WARM_UP + REPETITIONS) * sum(self.images) + sum(COMPARED) + len(COMPARED)

    @property
    def most_images(self) -> int:
        """In one request."""
        return max(*self.images, *COMPARED)

    @property
    def ring_nbytes(self) -> int:
        """What vLLM's cache holds at the end, and the largest request beside it."""
        return min(self.images_in_all * IMAGE_NBYTES, CACHE_NBYTES) + (self.most_images + 2) * IMAGE_NBYTES

    @property
    def room(self) -> Room:
        """What one vLLM takes in all."""
        private_nbytes = PROCESSES_NBYTES + COPIES * self.most_images * IMAGE_NBYTES
        return Room(self.ring_nbytes, private_nbytes + self.ring_nbytes)

    def fitted(self, room: Room) -> Self:
        """The same with the largest requests that ``room`` is enough for, but of one image at least."""
        for most in range(max(self.images), 1, -1):
            smaller = replace(self, images=tuple(dict.fromkeys(min(images, most) for images in self.images)))
            needed = smaller.room
            if needed.shared_nbytes <= room.shared_nbytes and needed.memory_nbytes <= room.memory_nbytes:
                return smaller
        return replace(self, images=(1,))
