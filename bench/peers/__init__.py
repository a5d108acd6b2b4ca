"""The peers: one file each, imported only when asked for, since not every one is installed everywhere.

What pins versions of its own has an environment of its own: `make bench-env` makes them.
"""

from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from bench.peers.peer import Peer

ROOT = Path(__file__).resolve().parents[2]
VLLM = ".venv-vllm"


class Place(NamedTuple):
    """Where a peer is found."""

    file: str
    backings: tuple[str, ...] = ("posix",)
    """What payload can be kept in, or the modes there are, as far as one can choose; the first is the default."""
    environment: str = ".venv-bench"
    class_name: str = "ThePeer"

    @property
    def python(self) -> Path:
        """Of its environment, which may not be there."""
        return ROOT / self.environment / "bin" / "python"


PLACES = {
    "shmtransport": Place("shm_transport", ("posix", "memfd")),
    "shmtransport in place": Place("shm_transport", class_name="InPlace"),
    "floor": Place("floor"),
    "bare message": Place("floor", class_name="Bare"),
    "iceoryx2": Place("iceoryx2"),
    "kickmsg": Place("kickmsg"),
    "momentumx": Place("momentumx"),
    "global-buffer": Place("global_buffer"),
    "py-sharedmemory": Place("py_sharedmemory"),
    "SharedMemory": Place("shared_memory"),
    "SGLang's pattern": Place("sglang_pattern"),
    "torch.multiprocessing": Place("torch_multiprocessing", ("file_descriptor", "file_system")),
    "multiprocessing.Queue": Place("queues"),
    "pickle over ZMQ": Place("pickled"),
    "protocol 5 over ZMQ": Place("out_of_band"),
    "vLLM": Place("vllm_msgpack", ("direct_rpc", "torch_shm"), VLLM),
    "vLLM shm cache": Place("vllm_object_storage", environment=VLLM),
    "vLLM MessageQueue": Place("vllm_message_queue", ("default", "arena"), VLLM),
    "Ray": Place("ray_store"),
}


def peer_type(name: str) -> type[Peer]:
    """The class that drives a peer. Raises `ImportError` where it is not installed."""
    place = PLACES[name]
    found: type[Peer] = getattr(import_module(f"bench.peers.{place.file}"), place.class_name)
    return found
