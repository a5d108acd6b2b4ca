"""How long put, share and open take in a ring that is half full, nearly full, or full.

The ring is filled with tensors of one size; then random ones are dropped. Each tensor that is timed takes the place of
a random older one, so that free room is scattered all over. In a full ring `on_full` decides: inline carries the bytes
in the message, whose socket is not timed here; block waits for a release, or to its deadline, and what it took counts
from there.
Reader and writer are two places in one process, since a message between two would measure the socket.
"""

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple

import torch

from bench.interferences.figures import Row, percentile
from bench.payloads import BY_NAME, Payload
from bench.peers.ends import WrongBytesError
from bench.second_place import second_place
from shmtransport import Reader, Ring, RingFullError, WaitTimeoutError
from shmtransport.config import OnFull

NAME: Final = "occupancy"
BLOCKS: Final = {"64 KB": 1024, "1 MB": 256}
"""In the full ring, by payload."""
OCCUPANCIES: Final = (50, 90)
MOVES: Final = 20_000
QUICK_MOVES: Final = 1500
WARM_UPS: Final = 100
WAITS: Final = 200
QUICK_WAITS: Final = 50
DEADLINES: Final = 5
DEADLINE_S: Final = 0.2
UNTIL_RELEASE_S: Final = 0.002


class Move(NamedTuple):
    """What one tensor took, in us."""

    put: float
    share: float
    open: float

    @property
    def together(self) -> float:
        return self.put + self.share + self.open


class Rig:
    """A ring of exactly so many blocks, a reader, and the tensors that are alive in it."""

    def __init__(self, ring: Ring, reader: Reader, payload: Payload, occupancy: int) -> None:
        self._ring = ring
        self._reader = reader
        self._pool = [payload.request(seed)[0] for seed in range(8)]
        self._chance = random.Random(occupancy)
        blocks = BLOCKS[payload.name]
        self._alive = [ring.put(self._pool[number % len(self._pool)]) for number in range(blocks)]
        self._chance.shuffle(self._alive)
        del self._alive[blocks * occupancy // 100 :]
        self._moves = 0

    def move(self) -> Move:
        """One tensor to the reader, in the place of a random older one."""
        move, tensor = self._timed()
        self._alive[self._chance.randrange(len(self._alive))] = tensor
        return move

    def move_inline(self) -> Move:
        """One tensor to the reader, for which there is no room."""
        return self._timed()[0]

    def move_after_release(self) -> Move:
        """One tensor to the reader, for which there is no room until another one goes; `put` counts from then on."""
        gone = [self._alive.pop(self._chance.randrange(len(self._alive)))]
        released_ns: list[int] = []

        def release() -> None:
            time.sleep(UNTIL_RELEASE_S)
            released_ns.append(time.perf_counter_ns())
            gone.clear()

        thread = threading.Thread(target=release)
        start = time.perf_counter_ns()
        thread.start()
        move, tensor = self._timed()
        thread.join()
        self._alive.append(tensor)
        return move._replace(put=(start - released_ns[0]) / 1e3 + move.put)

    def _timed(self) -> tuple[Move, torch.Tensor]:
        pixels = self._next()
        start = time.perf_counter_ns()
        tensor = self._ring.put(pixels)
        middle = time.perf_counter_ns()
        sent = bytes(self._ring.share(tensor, self._reader))
        shared = time.perf_counter_ns()
        opened = self._reader.open(sent)
        end = time.perf_counter_ns()
        if not isinstance(opened, torch.Tensor) or not torch.equal(opened.view(torch.int32), pixels.view(torch.int32)):
            raise WrongBytesError("opened another tensor than was put")
        return Move((middle - start) / 1e3, (shared - middle) / 1e3, (end - shared) / 1e3), tensor

    def refusal(self, error: type[Exception]) -> float:
        """How long `put` takes to raise it, in us."""
        pixels = self._next()
        start = time.perf_counter_ns()
        try:
            self._ring.put(pixels)
        except error:
            return (time.perf_counter_ns() - start) / 1e3
        raise RuntimeError(f"expected {error.__name__} of a full ring, got a tensor")

    def _next(self) -> torch.Tensor:
        self._moves += 1
        return self._pool[self._moves % len(self._pool)]


@contextmanager
def rig(payload: Payload, occupancy: int, on_full: OnFull) -> Iterator[Rig]:
    """One that lives."""
    capacity = BLOCKS[payload.name] * payload.nbytes
    with (
        Ring.create(
            capacity, segment=capacity, entries=2 * BLOCKS[payload.name], on_full=on_full, timeout_s=DEADLINE_S
        ) as ring,
        second_place(ring) as reader,
    ):
        yield Rig(ring, reader, payload, occupancy)


def _row(payload: Payload, occupancy: int, outcome: str, figures: dict[str, float], repeats: int) -> Row:
    return {
        "experiment": NAME,
        "subject": "shmtransport",
        "payload": payload.name,
        "occupancy_percent": occupancy,
        "outcome": outcome,
        "repeats": repeats,
        **figures,
        "verified": True,
    }


def _moves(
    payload: Payload, occupancy: int, on_full: OnFull, outcome: str, move: Callable[[Rig], Move], repeats: int
) -> Row:
    with rig(payload, occupancy, on_full) as found:
        for _ in range(min(WARM_UPS, repeats)):
            move(found)
        moves = [move(found) for _ in range(repeats)]
    figures = {"put_p50_us": percentile([move.put for move in moves], 50)}
    figures["put_p99_us"] = percentile([move.put for move in moves], 99)
    figures["share_p50_us"] = percentile([move.share for move in moves], 50)
    figures["open_p50_us"] = percentile([move.open for move in moves], 50)
    figures["together_p50_us"] = percentile([move.together for move in moves], 50)
    figures["together_p99_us"] = percentile([move.together for move in moves], 99)
    return _row(payload, occupancy, outcome, figures, repeats)


def _refusals(payload: Payload, on_full: OnFull, error: type[Exception], repeats: int, promised_us: float = 0) -> Row:
    with rig(payload, 100, on_full) as found:
        late = [found.refusal(error) - promised_us for _ in range(repeats)]
    figures = {"put_p50_us": percentile(late, 50), "put_p99_us": percentile(late, 99)}
    return _row(payload, 100, f"{on_full}: {error.__name__}", figures, repeats)


def rows(*, quick: bool) -> Iterator[Row]:
    """For each payload one for each occupancy, and for a full ring one for each end that it may come to."""
    moves, waits = (QUICK_MOVES, QUICK_WAITS) if quick else (MOVES, WAITS)
    for payload in map(BY_NAME.__getitem__, BLOCKS):
        for occupancy in OCCUPANCIES:
            yield _moves(payload, occupancy, "raise", "by handle", Rig.move, moves)
        yield _moves(payload, 100, "inline", "inline: in the message", Rig.move_inline, moves)
        yield _moves(payload, 100, "block", "block: by handle, after a release", Rig.move_after_release, waits)
        yield _refusals(payload, "block", WaitTimeoutError, DEADLINES, DEADLINE_S * 1e6)
        yield _refusals(payload, "raise", RingFullError, waits)
