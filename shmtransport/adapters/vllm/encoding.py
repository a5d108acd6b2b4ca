"""Giving a consumer to encoders that vLLM makes for itself."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from shmtransport.adapters.seams import Module, Seam
from shmtransport.adapters.vllm.sending import Consumer

_here = threading.local()


@contextmanager
def consumer_of_new_encoders(consumer: Consumer) -> Iterator[None]:
    """Encoders without a consumer that this thread makes meanwhile get this one; no other encoder does."""
    _here.consumer = consumer
    try:
        yield
    finally:
        _here.consumer = None


def module() -> Module:
    """The seam in vllm.v1.serial_utils."""

    def init(original: Callable[..., Any], encoder: Any, *args: Any, **kwargs: Any) -> None:
        original(encoder, *args, **kwargs)
        consumer = getattr(_here, "consumer", None)
        if consumer is not None and encoder.oob_tensor_consumer is None:
            encoder.oob_tensor_consumer = consumer

    return Module(
        "vllm.v1.serial_utils",
        (Seam("MsgpackEncoder", "__init__", ("self", "size_threshold", "oob_tensor_consumer"), init),),
    )
