"""Attack: messages of a channel, mutated, recombined, truncated and made up, and bodies that ask for too much.

The attacker can send to a socket of a channel, whatever and as often as it likes. It knows the protocol and has
listened to a genuine conversation. It has joined no ring.

The victim is the state behind both kinds of channel (`exchange.Exchange`), which never sees a socket. It hears what
comes and takes what it has heard. Each time it must get

    an object                        of whatever content: who may send may send that
    or a typed error, from `take`    HandleError, LayoutMismatchError, StaleHandleError, msgspec's ValidationError;
                                     never from `hear`, which runs in sends as well

in memory that is in proportion to what was sent. Afterwards the genuine peer is understood as before, no lease is left
that nobody has, and nothing has grown that is kept for longer than a message.
"""

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import msgspec
import numpy as np
import torch

from shmtransport import Handle, HandleError, LayoutMismatchError, Ring, StaleHandleError
from shmtransport.exchange import Exchange
from shmtransport.messages import AGAIN, JOINED, REFUSED, RING, Answer, Host, Introduction, envelope
from tests.hostile.trials import Mark, Outcome, attempt, trial
from tests.peers import join_as_if_another_process

PEER: Final = b"peer"
ANSWERS: Final = (HandleError, LayoutMismatchError, StaleHandleError, msgspec.ValidationError)
SAMPLE: Final = {
    "name": "astronaut", "sizes": [1, 2.5, None, True, -(1 << 40)], "raw": b"abc" * 9, "scalar": np.float32(0.5),
    "pixels": torch.arange(6, dtype=torch.int16).view(2, 3), "mask": np.ones((2, 2), np.bool_),
    "large": torch.zeros(70000, dtype=torch.uint8), "other": np.zeros(70000, np.uint8),
}  # fmt: skip

# Pieces of msgpack that open what nothing closes, lie about their length, or are extensions of ours without content.
TOKENS: Final = (
    b"\x80", b"\x81", b"\x8f", b"\x90", b"\x91", b"\x9f", b"\xa0", b"\xa1", b"\xbf", b"\xc0", b"\xc1", b"\xc2",
    b"\xc3", b"\xc4\xff", b"\xc5\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xc7\x04\x01", b"\xc7\xff\x02",
    b"\xc8\xff\xff\x03", b"\xc9\xff\xff\xff\xff\x04", b"\xca\x7f\xc0\x00\x00",
    b"\xcb\xff\xff\xff\xff\xff\xff\xff\xff", b"\xcf\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\xd3\x80\x00\x00\x00\x00\x00\x00\x00", b"\xd4\x01\x00", b"\xd5\x02\x00\x00", b"\xd6\x03\x00\x00\x00\x00",
    b"\xd6\xff\xff\xff\xff\xff", b"\xd7\x04" + bytes(8), b"\xd8\x05" + bytes(16), b"\xd9\xff", b"\xd9\x02\xff\xfe",
    b"\xda\xff\xff", b"\xdb\xff\xff\xff\xff", b"\xdc\xff\xff", b"\xdd\xff\xff\xff\xff", b"\xde\xff\xff",
    b"\xdf\xff\xff\xff\xff", b"\xe0", b"\xff", b"\x7f", b"\xb5\x01", b"\xb6\x01", b"\xa7ring_id", b"\xa4host",
    b"\xa7peer_id", b"\xa6reason", b"\xd9\x20" + b"0" * 32,
)  # fmt: skip


class Victim:
    """A channel's state, with a ring of its own and a peer that has joined it, and what the attacker has overheard."""

    def __init__(self, ring: Ring, peer_id: str) -> None:
        self.ring = ring
        self.exchange = Exchange(ring, 1, "victim")
        self.genuine: list[list[bytes]] = []
        self._conversation(peer_id)
        self._kept = self._sizes()

    def _conversation(self, peer_id: str) -> None:
        self.exchange.meet(PEER)
        answers = [
            envelope(JOINED, msgspec.msgpack.encode(Answer(self.ring.id, peer_id=peer_id))),
            envelope(REFUSED, msgspec.msgpack.encode(Answer("0" * 32, reason="elsewhere"))),
            envelope(AGAIN, msgspec.msgpack.encode(Answer("1" * 32))),
            envelope(RING, msgspec.msgpack.encode(Introduction("2" * 32, Host.here()))),
        ]
        inline = Exchange(None, 1, "stranger").encode(SAMPLE, [PEER])[0].frames
        for frames in (*answers, inline):
            assert self.hears(frames)
        assert self.exchange.gets_handles(PEER)
        by_handle = self.exchange.encode([SAMPLE["pixels"], SAMPLE["mask"]], [PEER])[0]
        self.genuine = [[bytes(frame) for frame in frames] for frames in (*answers, inline, by_handle.frames)]
        by_handle.revoke([PEER])
        self.exchange.outbox.clear()

    def hears(self, frames: Sequence[bytes | memoryview]) -> bool:
        """Whether a genuine message is understood."""
        self.exchange.hear(PEER, [memoryview(frame) for frame in frames])
        return all(isinstance(self.exchange.take(Any)[1], dict) for _ in range(len(self.exchange.inbox)))

    def swallow(self, frames: list[bytes], outcome: Outcome) -> None:
        """Hears one message, and takes it if it is an object or an error."""
        self.exchange.hear(PEER, [memoryview(frame) for frame in frames])
        assert len(self.exchange.inbox) <= 1
        assert len(self.exchange.outbox) <= 2, "one answer, or an introduction"
        self.exchange.outbox.clear()
        with attempt(outcome, msgspec.ValidationError):
            while self.exchange.inbox:
                self.exchange.take(Any)

    def _sizes(self) -> int:
        state = self.exchange.peers.of(PEER)
        kept = len(self.exchange.peers) + len(self.exchange._readers)
        return kept + len(state.joined) + len(state.refused) + len(state.introduced)

    def check(self) -> None:
        """As if nothing had happened; an AGAIN may have had the ring introduced once more."""
        assert self._sizes() <= self._kept + 1
        self.ring.attachment.core.settle()
        assert not self.ring.attachment.core.blocks(), "no lease is left"
        assert self.hears(self.genuine[0])
        assert self.exchange.gets_handles(PEER) is True
        assert self.hears(self.genuine[4])


@contextmanager
def victim() -> Iterator[Victim]:
    """Listening, and at the end in its right mind."""
    with (
        Ring.create(capacity="1MiB", segment="1MiB", entries=16) as ring,
        join_as_if_another_process(ring.id) as reader,
    ):
        made = Victim(ring, reader.peer_id)
        yield made
        made.check()
        made.exchange.close()


def messages(genuine: list[list[bytes]], seed: int, count: int) -> Iterator[list[bytes]]:
    """``count`` of them: mutated, frames lost, doubled or exchanged, cut, spliced, or strung together from tokens."""
    chance = np.random.default_rng(seed)
    draws = chance.integers(0, 1 << 32, (count, 16))
    heads = [frames[0][:3] for frames in genuine]
    for number in range(count):
        draw = [int(value) for value in draws[number]]
        frames = list(genuine[draw[0] % len(genuine)])
        way = draw[1] % 8
        if way < 4:
            body = bytearray(frames[0])
            for value in draw[2 : 3 + draw[15] % 5]:
                body[(value >> 8) % min(len(body), 400)] = value & 0xFF
            frames[0] = bytes(body)
        elif way == 4:
            other = genuine[draw[2] % len(genuine)]
            frames = [
                frames[0][: draw[3] % (len(frames[0]) + 1)] + other[0][draw[4] % (len(other[0]) + 1) :],
                *other[1:],
            ]
        elif way == 5:
            frames = [frames[0][: draw[2] % (len(frames[0]) + 1)], *frames[1 : draw[3] % 3]]
        elif way == 6:
            frames = [frames[0], *(frames[value % len(frames)] for value in draw[2 : 2 + draw[14] % 4])]
        else:
            tokens = [TOKENS[value % len(TOKENS)] for value in draw[2 : 3 + draw[15] % 12]]
            frames = [b"".join([heads[draw[14] % len(heads)], *tokens]), *frames[1:]]
        yield frames


def garble(seed: int, count: int, mark: Mark) -> Outcome:
    """``count`` messages to one victim."""
    outcome: Outcome = Counter()
    with victim() as heard:
        for number, frames in enumerate(messages(heard.genuine, seed, count)):
            mark(number)
            heard.swallow(frames, outcome)
    return outcome


def campaign(seed: int, count: int, at_once: int = 20_000) -> Outcome:
    """``count`` messages, ``at_once`` to a victim of its own in a child."""
    outcome: Outcome = Counter()
    for first in range(0, count, at_once):
        size = min(at_once, count - first)
        outcome += trial(lambda mark, first=first, size=size: garble(seed + first, size, mark))  # type: ignore[misc]
    return outcome


def greedy(frame: bytes, head: bytes, handle: Handle) -> dict[str, list[bytes]]:
    """Messages that ask for far more memory, time or stack than they are long."""
    reference = b"\xc7" + bytes([4 + len(head)]) + b"\x03" + bytes(4) + head
    wire = bytes(handle)
    here = b"\xc7" + bytes([len(wire)]) + b"\x01" + wire
    return {
        "one frame, referred to 60000 times": [b"\xdc\xea\x60" + reference * 60_000, frame],
        "a handle 60000 times": [b"\xdc\xea\x60" + here * 60_000],
        "a list of 4 billion": [b"\xdd\xff\xff\xff\xff" + b"\xc0" * 9],
        "a dict of 4 billion": [b"\xdf\xff\xff\xff\xff" + b"\xc0" * 9],
        "lists of 4 billion in each other": [b"\xdd\xff\xff\xff\xff" * 900],
        "bytes of 4 billion": [b"\xc6\xff\xff\xff\xff" + bytes(9)],
        "text of 4 billion": [b"\xdb\xff\xff\xff\xff" + bytes(9)],
        "an extension of 4 billion": [b"\xc9\xff\xff\xff\xff\x02" + bytes(9)],
        "a million lists in each other": [b"\x91" * 1_000_000],
        "a million dicts in each other": [b"\x81\xa1a" * 1_000_000],
        "a dict as a key": [b"\x81\x80\x01"],
        "a tensor as a key": [b"\x81" + reference + b"\x01", frame],
        "an inline tensor of 2^62 elements": [b"\xc7\x0d\x02\xb6\x01\x00\x01\x01" + (1 << 62).to_bytes(8, "little")],
        "an inline tensor of no elements in 2^62 rows": [
            b"\xc7\x15\x02\xb6\x01\x00\x01\x02" + (1 << 62).to_bytes(8, "little") + bytes(8)
        ],
    }


if __name__ == "__main__":  # python -m tests.hostile.socket_garbage [seed [count]]
    print(dict(campaign(int([*sys.argv, "0"][1]), int([*sys.argv, "", "100000"][2] or 100_000))))
