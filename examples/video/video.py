"""A camera at a steady rate and a slow reader: what each ``on_full`` does with a frame without room."""

import multiprocessing
import pickle
import time
from collections import Counter
from tempfile import TemporaryDirectory

import msgspec
import torch
import zmq

from examples.measuring import Clock, checksum
from shmtransport import Channel, OnFull, Ring, RingFullError

FRAME = (720, 1280, 3)
FRAMES = 40
PERIOD_S = 0.02
LOOK_S = 0.04
POLICIES: tuple[OnFull, ...] = ("inline", "block", "raise")


class Frame(msgspec.Struct):
    """A picture, and what its bytes must be."""

    number: int
    total: int
    pixels: torch.Tensor


def watch(address: str, plain: bool) -> None:
    """Looks at each frame for 40 ms, until it is sent None; then says how many there were."""
    torch.set_num_threads(1)
    with zmq.Context() as context, context.socket(zmq.PAIR) as socket:
        socket.connect(address)
        if plain:
            socket.send(b"ready")
        with Channel(socket, name="watcher") as channel:
            seen = 0
            while True:
                frame = pickle.loads(socket.recv()) if plain else channel.recv(Frame | None)
                if frame is None:
                    break
                if checksum(frame.pixels) != frame.total:
                    raise SystemExit("other bytes arrived than were sent")
                time.sleep(LOOK_S)
                seen += 1
                del frame
            if plain:
                socket.send(pickle.dumps(seen))
            else:
                channel.send(seen)


class Plain:
    """The same conversation with pickle."""

    def __init__(self, socket: "zmq.Socket[bytes]") -> None:
        self._socket = socket

    def send(self, value: object) -> None:
        """To the watcher."""
        self._socket.send(pickle.dumps(value, protocol=5), copy=False)

    def recv(self, timeout_s: float) -> int:
        """What it has seen."""
        if not self._socket.poll(round(timeout_s * 1000)):
            raise SystemExit("the watcher does not answer")
        return int(pickle.loads(self._socket.recv()))


def film(channel: Channel | Plain, clock: Clock, way: str) -> Counter[str]:
    """Has a frame each 20 ms; drops it where ``on_full="raise"`` finds no room, and is late where a send takes long."""
    counts: Counter[str] = Counter()
    frames = [torch.full(FRAME, number, dtype=torch.uint8) for number in range(FRAMES)]
    totals = [checksum(pixels) for pixels in frames]
    due = time.monotonic()
    for number, (pixels, total) in enumerate(zip(frames, totals, strict=True)):
        time.sleep(max(0.0, due - time.monotonic()))
        counts["late"] += time.monotonic() > due + PERIOD_S / 2
        due += PERIOD_S
        try:
            with clock.timed(way):
                channel.send(Frame(number, total, pixels))
        except RingFullError:
            counts["dropped"] += 1
    return counts


def show(way: str, policy: OnFull | None, clock: Clock) -> None:
    """Films once with that ``on_full``, or without a ring, and prints what became of the frames."""
    with TemporaryDirectory() as folder, zmq.Context() as context, context.socket(zmq.PAIR) as socket:
        socket.bind(f"ipc://{folder}/video")
        process = multiprocessing.get_context("spawn").Process(
            target=watch, args=(f"ipc://{folder}/video", policy is None)
        )
        process.start()
        if policy is None:
            plain = Plain(socket)
            socket.poll(60_000)
            socket.recv()
            counts = film(plain, clock, way)
            plain.send(None)
            seen = plain.recv(60)
        else:
            with (
                Ring.create("24MB", segment="24MB", on_full=policy, name="camera") as ring,
                Channel(socket, ring, name="camera") as channel,
            ):
                channel.join(timeout_s=60)
                counts = film(channel, clock, way)
                channel.send(None)
                seen = channel.recv(int, timeout_s=60)
                statistics = channel.statistics()
                counts += Counter({"by handle": statistics.handles, "inline": statistics.inline.get("full", 0)})
        process.join()
    if seen != FRAMES - counts["dropped"]:
        raise SystemExit(f"{way}: {seen} frames were seen of {FRAMES}, and {counts['dropped']} were dropped")
    print(f"{way}: " + ", ".join(f"{counts[what]} {what}" for what in ("by handle", "inline", "dropped", "late")))


def main() -> None:
    """All policies, and the plain form."""
    clock = Clock()
    for policy in POLICIES:
        show(f'shmtransport, on_full="{policy}"', policy, clock)
    show("pickle over ZMQ", None, clock)
    print(clock.report("the camera's time for a frame of 2.8 MB"))


if __name__ == "__main__":
    main()
