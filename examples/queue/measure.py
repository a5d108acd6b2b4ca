"""`TensorQueue` against `multiprocessing.Queue`, whose tensors torch shares and whose arrays are pickled, by turns."""

import multiprocessing
from multiprocessing.connection import Connection
from typing import Any

import torch

from examples.measuring import WARM_UPS, Clock, checksum
from examples.queue.tensor_queue import TensorQueue

TURNS = 15


def consume(queues: list[Any], answers: Connection) -> None:
    """Gets from each queue in turn, and answers with a checksum of what came."""
    torch.set_num_threads(1)
    for _ in range(WARM_UPS + TURNS):
        for queue in queues:
            images = queue.get(timeout=60)["images"]
            answers.send([checksum(torch.as_tensor(image)) for image in images])
            del images
    for queue in queues:
        queue.close()


def main() -> None:
    """Measures the three, and verifies what came."""
    spawn = multiprocessing.get_context("spawn")
    ways: dict[str, Any] = {
        "shmtransport": TensorQueue(),
        "multiprocessing.Queue, torch tensors": spawn.Queue(),
        "multiprocessing.Queue, numpy arrays": spawn.Queue(),
    }
    ours, theirs = spawn.Pipe()
    consumer = spawn.Process(target=consume, args=(list(ways.values()), theirs))
    consumer.start()
    clock = Clock()
    for _ in range(WARM_UPS + TURNS):
        images = [torch.rand(3, 896, 896) for _ in range(4)]
        expected = list(map(checksum, images))
        for way, queue in ways.items():
            with clock.timed(way):
                queue.put({"images": [image.numpy() for image in images] if "numpy" in way else images, "id": ("a", 1)})
                answer = ours.recv()
            if answer != expected:
                raise SystemExit(f"{way}: other bytes arrived than were sent")
    for queue in ways.values():
        queue.close()
    consumer.join()
    print(clock.report("4 tensors of 9.6 MB in a dict, from put until they were read"))


if __name__ == "__main__":
    main()
