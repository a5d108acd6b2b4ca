"""One writer, four readers: a tensor is written once and goes to all under one ticket, against four sends of its bytes.

Handles are bytes, so they need no ZMQ: here they go through pipes of `multiprocessing`.
"""

import multiprocessing
from multiprocessing.connection import Connection

import torch

from examples.measuring import WARM_UPS, Clock, checksum
from shmtransport import Reader, Ring

READERS = 4
TURNS = 15


def read(ring_id: str, pipe: Connection) -> None:
    """A reader: says who it is in the ring, then answers each tensor with its checksum; b"" ends it."""
    torch.set_num_threads(1)
    with Reader.join(ring_id, name="reader") as reader:
        pipe.send(reader.peer_id)
        while sent := pipe.recv_bytes():
            pipe.send(checksum(torch.as_tensor(reader.open(sent))))
            pipe.send(checksum(torch.frombuffer(bytearray(pipe.recv_bytes()), dtype=torch.float32)))


def main() -> None:
    """Measures both, and verifies what each reader read."""
    spawn = multiprocessing.get_context("spawn")
    clock = Clock()
    with Ring.create("128MiB", segment="128MiB", name="writer") as ring:
        pairs = [spawn.Pipe() for _ in range(READERS)]
        processes = [spawn.Process(target=read, args=(ring.id, theirs)) for _, theirs in pairs]
        for process in processes:
            process.start()
        pipes = [ours for ours, _ in pairs]
        peers = [pipe.recv() for pipe in pipes]
        for _ in range(WARM_UPS + TURNS):
            weights = torch.rand(3, 896, 896)
            with clock.timed("shmtransport"):
                handle = bytes(ring.share(weights, peers))
                for pipe in pipes:
                    pipe.send_bytes(handle)
                answers = [pipe.recv() for pipe in pipes]
            with clock.timed("four sends of the bytes"):
                for pipe in pipes:
                    pipe.send_bytes(weights.numpy().data.cast("B"))
                answers += [pipe.recv() for pipe in pipes]
            if set(answers) != {checksum(weights)}:
                raise SystemExit("other bytes arrived than were sent")
        for pipe in pipes:
            pipe.send_bytes(b"")
        for process in processes:
            process.join()
    print(clock.report(f"9.6 MB to {READERS} processes, until all have read them"))


if __name__ == "__main__":
    main()
