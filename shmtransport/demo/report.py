"""What a run of the demo found, in the shape of its JSON."""

import platform
from statistics import median
from typing import NamedTuple, Self

import msgspec
import torch
import zmq

from shmtransport import host
from shmtransport.demo.photographs import image_nbytes


class Kind(NamedTuple):
    """What a request is: so many images of one dtype."""

    images: int
    dtype: str


class Sample(NamedTuple):
    """What became of one request."""

    seconds: float
    wire_nbytes: int
    minor_faults: int
    images_verified: int
    patches: int


class Row(msgspec.Struct, frozen=True):
    """Requests of one kind by one transport."""

    transport: str
    images: int
    dtype: str
    payload_nbytes: int
    wire_nbytes: int
    """What went through the socket for a request, at most."""
    seconds: float
    """Median from "tensors in hand" in the frontend to tensors that the engine can compute on."""
    faults_per_message: float
    """Median of both processes' minor page faults in that time."""
    requests: int
    """How many were measured, after warm-up."""

    @classmethod
    def of(cls, transport: str, kind: Kind, samples: list[Sample]) -> Self:
        """The row of the measured ``samples``."""
        return cls(
            transport=transport,
            images=kind.images,
            dtype=kind.dtype,
            payload_nbytes=kind.images * image_nbytes(kind.dtype),
            wire_nbytes=max(sample.wire_nbytes for sample in samples),
            seconds=median(sample.seconds for sample in samples),
            faults_per_message=median(sample.minor_faults for sample in samples),
            requests=len(samples),
        )


class Machine(msgspec.Struct, frozen=True):
    """Where the figures come from: on another machine they differ, and so do the ratios."""

    cpu: str
    cores: int
    kernel: str
    python: str
    torch: str
    zmq: str

    @classmethod
    def here(cls) -> Self:
        """This one."""
        return cls(
            cpu=host.cpu_model(),
            cores=host.cpus(),
            kernel=platform.release(),
            python=platform.python_version(),
            torch=str(torch.__version__),
            zmq=zmq.zmq_version(),
        )


class Report(msgspec.Struct, frozen=True):
    """A whole run."""

    verified: bool
    """Every image of every request had its checksum, by every transport, and all its patches were embedded."""
    leaked_nbytes: int
    """Left in /dev/shm under the ring's id when both processes had let go of it."""
    rows: list[Row]
    images_verified: int
    machine: Machine

    @property
    def ok(self) -> bool:
        """Whether the run is a success."""
        return self.verified and not self.leaked_nbytes
