"""The peers: one file each, imported only when asked for, since not every one is installed everywhere."""

from importlib import import_module

from bench.peers.peer import Peer

FILES = {
    "shmtransport": "ring",
    "iceoryx2": "iceoryx2",
    "kickmsg": "kickmsg",
    "momentumx": "momentumx",
    "global-buffer": "global_buffer",
    "py-sharedmemory": "py_sharedmemory",
    "SharedMemory": "shared_memory",
    "torch.multiprocessing": "torch_multiprocessing",
}
LEFT_OUT = {
    "ray": "on two busy cores a start took a minute and eight processes, and saved a token in the home folder",
}
"""Peers that are not driven, and why."""


def peer_type(name: str) -> type[Peer]:
    """The class that drives a peer. Raises `ImportError` where it is not installed."""
    found: type[Peer] = import_module(f"bench.peers.{FILES[name]}").ThePeer
    return found
