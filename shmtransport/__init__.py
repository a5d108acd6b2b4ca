"""Tensors between processes without their bytes in the message.

A writer puts a tensor once into a ring of shared-memory segments and sends a handle of about a hundred bytes;
whoever opens the handle reads the same bytes in place. A lease keeps the block until its last tensor has died,
in whichever process, and comes back when that process dies.

General layout (imports only go down; tests/meta/test_layers.py holds it):

    L5  this module, adapters (vllm, sglang)           what people touch
        cli, doctor, metrics, demo                     and operate it by
    L4  ring, reader, endpoint                         the two ends of a ring, and what they share
        device_pool                                    memory of a GPU under a ring's leases
        channel, asyncio, exchange, peers, traffic     objects over a socket, and the conversation behind them
        statistics, observing                          who holds what, from inside and from outside
    L3  tensors, device_tensors, rejoining, dtypes     payloads: torch and numpy
        handles, codec, messages                       wire formats
    L2  attachment, copying, cuda, device_memory       faces of the C core: a process's place in a ring, copies, GPUs
    L1  segment, layout, host, _core (csrc/)           named shared memory, the law of the bytes, the core
    L0  errors, config, formatting                     words

When priorities conflict: no silent corruption, nothing lost or leaked when a process dies, bounded waiting,
tail latency, throughput, microbenchmarks; in this order.
"""

from importlib.metadata import version

from shmtransport.channel import Channel
from shmtransport.config import OnFull
from shmtransport.device_pool import DevicePool
from shmtransport.endpoint import Endpoint
from shmtransport.errors import (
    ClosedError,
    ConfigError,
    CorruptSegmentError,
    DeviceError,
    ForkedError,
    HandleError,
    InternalError,
    LayoutError,
    LayoutMismatchError,
    OutOfSharedMemoryError,
    PeerDeadError,
    RingFullError,
    SegmentError,
    SegmentNotFoundError,
    ShmTransportError,
    StaleHandleError,
    UnsupportedTypeError,
    WaitTimeoutError,
)
from shmtransport.handles import Handle, Inline
from shmtransport.reader import Reader
from shmtransport.ring import Ring
from shmtransport.segment import sweep
from shmtransport.statistics import Process, RingStatistics
from shmtransport.traffic import ChannelStatistics

__version__ = version("shmtransport")

__all__ = [
    "Channel",
    "ChannelStatistics",
    "ClosedError",
    "ConfigError",
    "CorruptSegmentError",
    "DeviceError",
    "DevicePool",
    "Endpoint",
    "ForkedError",
    "Handle",
    "HandleError",
    "Inline",
    "InternalError",
    "LayoutError",
    "LayoutMismatchError",
    "OnFull",
    "OutOfSharedMemoryError",
    "PeerDeadError",
    "Process",
    "Reader",
    "Ring",
    "RingFullError",
    "RingStatistics",
    "SegmentError",
    "SegmentNotFoundError",
    "ShmTransportError",
    "StaleHandleError",
    "UnsupportedTypeError",
    "WaitTimeoutError",
    "sweep",
]
