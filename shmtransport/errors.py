"""Every exception of shmtransport, as a tree, split by who has to act.

    ShmTransportError
    ├── ConfigError(ValueError)           the caller: a parameter is wrong
    ├── UnsupportedTypeError(TypeError)   the caller: a value cannot be sent; names its type and place
    ├── HandleError(ValueError)           the sender: a handle is forged, damaged or of another ring
    ├── StaleHandleError                  nobody: the block was given back before the handle was opened
    ├── ClosedError, ForkedError          the caller: used after close(), or in a forked child
    ├── RingFullError, WaitTimeoutError   capacity: expected under load, says who holds the ring
    ├── SegmentError(OSError)             the host
    │   ├── SegmentNotFoundError(FileNotFoundError)
    │   └── OutOfSharedMemoryError
    ├── DeviceError                       the host's GPUs: memory that cannot be had or reached
    ├── LayoutError                       versions
    │   ├── LayoutMismatchError           prints both sides
    │   └── CorruptSegmentError
    ├── PeerDeadError                     the other process
    └── InternalError                     us: a bug, please report it

All carry a message of the form expectation, reality, remedy. The C core raises the same classes.
"""


class ShmTransportError(Exception):
    """Base of everything this library raises on purpose."""


class ConfigError(ShmTransportError, ValueError):
    """A parameter is wrong: names it, what it got and what it takes."""

    def __init__(self, parameter: str, got: object, takes: str) -> None:
        super().__init__(f"{parameter}: expected {takes}, got {got!r}")
        self.parameter = parameter
        self.got = got
        self.takes = takes


class UnsupportedTypeError(ShmTransportError, TypeError):
    """A value that cannot be sent: names its type and its place (``$.images[3]``). Nothing was sent."""


class HandleError(ShmTransportError, ValueError):
    """A handle that no ring of this process could have issued: damaged, truncated, forged or misdirected."""


class StaleHandleError(ShmTransportError):
    """The handle was genuine, but its block has been given back since: revoked, or its sender died."""


class ClosedError(ShmTransportError):
    """The ring, reader or channel was closed. Tensors over its blocks stay valid."""


class ForkedError(ShmTransportError):
    """The object was made before this process was forked. Create or join anew in the child."""


class RingFullError(ShmTransportError):
    """No room after growth up to the capacity and after reaping. The message says who holds the ring."""


class WaitTimeoutError(ShmTransportError, TimeoutError):
    """A deadline passed."""


class SegmentError(ShmTransportError, OSError):
    """Shared memory could not be created, opened or mapped."""


class SegmentNotFoundError(SegmentError, FileNotFoundError):
    """No such ring on this host, or it is not ready yet, or its writer has left."""


class OutOfSharedMemoryError(SegmentError):
    """The host has less shared memory left than was asked for. Seen before any byte was written: never SIGBUS.

    Attributes are in bytes. Remedy: a larger ``/dev/shm`` (``docker run --shm-size``, an ``emptyDir`` with
    ``medium: Memory``), a higher memory limit of the container, or a smaller capacity.
    """

    def __init__(self, asked_nbytes: int, free_nbytes: int, limit: str) -> None:
        super().__init__(
            f"expected {asked_nbytes} bytes of shared memory, {free_nbytes} are free ({limit}): "
            "enlarge it (docker run --shm-size, Kubernetes emptyDir medium: Memory) or lower the capacity"
        )
        self.asked_nbytes = asked_nbytes
        self.free_nbytes = free_nbytes
        self.limit = limit


class DeviceError(ShmTransportError):
    """Memory of a CUDA device cannot be allocated, or not be reached from another process. Says what CUDA answered.

    Remedy: send ``tensor.cpu()``; it goes through the ring.
    """


class LayoutError(ShmTransportError):
    """A control segment that this build cannot use."""


class LayoutMismatchError(LayoutError):
    """Two versions of the shared layout, or of the handle, meet. Prints both."""


class CorruptSegmentError(LayoutError):
    """A segment whose sizes or fields contradict each other."""


class PeerDeadError(ShmTransportError):
    """The process at the other end is gone."""


class InternalError(ShmTransportError):
    """A bug in shmtransport. Please report it with the message."""
