"""A process that takes driver.c for its CUDA driver, and its memory for a device's."""

import ctypes
import os
from typing import Any

import torch

from shmtransport import cuda, device_memory, device_pool, device_tensors, tensors
from shmtransport.device_tensors import Block
from shmtransport.tensors import Description


class Tell(ctypes.Structure):
    """The struct of that name in driver.c."""

    _fields_ = [
        (name, ctypes.c_int32)
        for name in (
            "active register_code record_code query_code enqueued done registered unregistered records contexts how "
            "created_without_context allocate_code export_code import_code uuid allocated opened"
        ).split()
    ]


class PretendedEvent:
    """In place of CUDA's, which torch makes: nothing is ever under way on this device."""

    def __init__(self, handle: bytes) -> None:
        self.handle = handle

    @classmethod
    def create(cls, _device: torch.device) -> "PretendedEvent":
        return cls(os.urandom(64))

    @classmethod
    def open(cls, _device: torch.device, handle: bytes) -> "PretendedEvent":
        return cls(handle)

    def record(self) -> None: ...

    def wait(self) -> None: ...


def pretend(driver: str) -> Any:
    """From now on this process uses the device of ``driver``; its orders and counters."""
    tell = Tell.in_dll(ctypes.CDLL(driver), "tell")
    tell.active = 1
    cuda.DRIVER = driver  # type: ignore[misc]
    cuda.load()
    cuda._announce_captures = lambda: None  # type: ignore[assignment] # a torch without CUDA has no graphs to announce
    return tell


def pretend_tensors() -> None:
    """CPU tensors over the device's memory are described as a device's are."""
    describe = tensors.describe

    def describe_as_on_device(value: object) -> Description:
        description = describe(value)
        on_device = isinstance(value, torch.Tensor) and value.untyped_storage().data_ptr() in device_tensors._by_address
        return description._replace(address=None) if on_device else description

    tensors.describe = describe_as_on_device
    device_tensors.over = _over
    for module in (device_memory, device_tensors, device_pool):
        module.Event = PretendedEvent  # type: ignore[attr-defined]
    cuda.used = lambda device: torch.device("cuda", 0)  # noqa: ARG005


def _over(block: Block) -> torch.Tensor:
    """All bytes of a block, as a tensor that keeps it."""
    array = (ctypes.c_uint8 * block.nbytes).from_address(block.address)
    array.block = block  # type: ignore[attr-defined]
    return torch.frombuffer(array, dtype=torch.uint8)
