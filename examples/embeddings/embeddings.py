"""Tensors both ways: images to an engine, embeddings back. Each end has a ring, which the other one joins by itself."""

import multiprocessing
import pickle
from tempfile import TemporaryDirectory

import torch
import zmq

from examples.measuring import WARM_UPS, Clock
from shmtransport import Channel, Ring

TURNS = 15


def embed(pixels: torch.Tensor) -> torch.Tensor:
    """Stands for a model: 3 x 896 x 896 floats become 2352 embeddings of 1024 floats."""
    return (pixels.reshape(-1, 1024) + 1).contiguous()


def engine(address: str, plain_address: str) -> None:
    """Embeds what comes: by handle, then by pickle, and so on until it is sent None."""
    torch.set_num_threads(1)
    with (
        zmq.Context() as context,
        context.socket(zmq.PAIR) as socket,
        context.socket(zmq.PAIR) as plain,
        Ring.create("128MiB", name="engine") as ring,
        Channel(socket, ring, name="engine") as channel,
    ):
        socket.connect(address)
        plain.connect(plain_address)
        while (pixels := channel.recv(torch.Tensor | None)) is not None:
            channel.send(embed(pixels))
            del pixels
            plain.send(pickle.dumps(embed(pickle.loads(plain.recv(copy=False).buffer)), protocol=5), copy=False)


def main() -> None:
    """Measures both ways, and verifies each embedding."""
    clock = Clock()
    with (
        TemporaryDirectory() as folder,
        zmq.Context() as context,
        context.socket(zmq.PAIR) as socket,
        context.socket(zmq.PAIR) as plain,
        Ring.create("128MiB", name="frontend") as ring,
        Channel(socket, ring, name="frontend") as channel,
    ):
        addresses = f"ipc://{folder}/channel", f"ipc://{folder}/plain"
        socket.bind(addresses[0])
        plain.bind(addresses[1])
        process = multiprocessing.get_context("spawn").Process(target=engine, args=addresses)
        process.start()
        channel.join(timeout_s=60)
        for _ in range(WARM_UPS + TURNS):
            pixels = torch.rand(3, 896, 896)
            with clock.timed("shmtransport"):
                channel.send(pixels)
                embeddings = channel.recv(torch.Tensor, timeout_s=60)
            with clock.timed("pickle over ZMQ"):
                plain.send(pickle.dumps(pixels, protocol=5), copy=False)
                pickled = pickle.loads(plain.recv(copy=False).buffer)
            expected = embed(pixels)
            if not torch.equal(embeddings, expected) or not torch.equal(pickled, expected):
                raise SystemExit("other embeddings arrived than were made")
            del embeddings
        channel.send(None)
        process.join()
    print(clock.report("9.6 MB to an engine, 9.6 MB of embeddings back"))


if __name__ == "__main__":
    main()
