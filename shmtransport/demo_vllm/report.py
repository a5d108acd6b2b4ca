"""What a run found, in the shape of its JSON."""

from statistics import median
from typing import NamedTuple, Self

import msgspec

from shmtransport.demo_vllm.messages import Measured


class Sample(NamedTuple):
    """What became of one request: as its frontend saw it, and what the recorder saw of it."""

    frontend: Measured
    decoded_s: float
    sent_seconds: float
    sent_wire_nbytes: int
    received_seconds: float
    """Of the slowest worker."""

    @property
    def hop1_seconds(self) -> float:
        """The plugin's staging, and from the client's ``add_request`` until the EngineCore has decoded it."""
        return self.frontend.staged_s + self.decoded_s - self.frontend.sent_s


class Row(msgspec.Struct, frozen=True):
    """Requests with one number of images, with the plugin off or on; medians, and of sizes the largest."""

    plugin: bool
    images: int
    payload_nbytes: int
    """Of the pixels of a request."""
    hop1_wire_nbytes: int
    """Of all parts of the message with which the frontend adds a request."""
    hop2_wire_nbytes: int
    """What the EngineCore writes, to shared memory and sockets, to tell its workers of the request."""
    hop1_seconds: float
    """From ``add_request`` of the frontend's client, which has the pixels, until the EngineCore's input thread has
    decoded them; with the plugin on also the copy into the ring, which comes before that."""
    hop2_send_seconds: float = msgspec.field(name="hop2_enqueue_seconds")
    """The EngineCore's call of ``MessageQueue.enqueue`` for the message that carries the pixels."""
    hop2_receive_seconds: float
    """In the slowest worker, from the moment at which it saw that message announced until ``dequeue`` had
    tensors for it: reading, unpickling, and, for what is too large for the queue, its way through the socket.
    Waiting for a message that nobody has announced is not in it."""
    request_seconds: float
    """From photographs in the frontend's hands until the answer of one token: preprocessing and model too."""

    @property
    def moving_seconds(self) -> float:
        """Both hops: what the pixels' way takes, without anything that is done with them."""
        return self.hop1_seconds + self.hop2_send_seconds + self.hop2_receive_seconds

    @classmethod
    def of(cls, plugin: bool, images: int, samples: list[Sample]) -> Self:
        """The row of requests that all have ``images`` images."""
        return cls(
            plugin=plugin,
            images=images,
            payload_nbytes=min(sample.frontend.payload_nbytes for sample in samples),
            hop1_wire_nbytes=max(sample.frontend.wire_nbytes for sample in samples),
            hop2_wire_nbytes=max(sample.sent_wire_nbytes for sample in samples),
            hop1_seconds=median(sample.hop1_seconds for sample in samples),
            hop2_send_seconds=median(sample.sent_seconds for sample in samples),
            hop2_receive_seconds=median(sample.received_seconds for sample in samples),
            request_seconds=median(sample.frontend.request_s for sample in samples),
        )


class Report(msgspec.Struct, frozen=True):
    """A whole run."""

    identical: bool
    """Greedy tokens and their logprobs, of one image and of ten, asked one at a time, are the same bit by bit with
    the plugin off and on."""
    control_differs: bool
    """With one image replaced they are not, off or on."""
    leaked_nbytes: int
    """Left in /dev/shm by this package when both had ended."""
    rows: list[Row]
    """By number of images, the plugin off before on."""

    @property
    def ok(self) -> bool:
        """Whether the run is a success."""
        return self.identical and self.control_differs and not self.leaked_nbytes
