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
    "ray": "a start takes a minute on two busy cores and eight processes, and saves a token in the home folder;"
    " its store takes 75 MB at least, /tmp where /dev/shm has less, and unlinks its file at once",
}
"""Peers that are not driven, and why."""


def peer_type(name: str) -> type[Peer]:
    """The class that drives a peer. Raises `ImportError` where it is not installed."""
    found: type[Peer] = import_module(f"bench.peers.{FILES[name]}").ThePeer
    return found
