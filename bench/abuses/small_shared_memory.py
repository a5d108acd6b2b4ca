"""A /dev/shm of 8 MB, into which a peer is to send more than fits: 12 MB alive at once, in messages of 3 MB.

The first message is sent and read. With it still in the receiver's hands the sender goes on, as far as the terms that
both ends agreed to allow; then the receiver reads what was accepted. A peer that does not keep payload in /dev/shm
brings everything over, which is as good as an error.
"""

from typing import Any

from bench.abuses import arena
from bench.peers.pair import Died, Failure, Pair, pair

SHM_NBYTES = 8 * arena.MIB


def fill(two: Pair) -> tuple[Failure | None, int]:
    """What ended it, and how many messages the sender had brought on their way until then."""
    sent = 0
    try:
        two.wait_until_ready()
        two.transfer(0)
        sent = 1
        for seed in range(1, arena.TERMS.alive):
            two.send(seed)
            sent += 1
    except Failure as failure:
        return failure, sent
    return None, sent


def drain(two: Pair, sent: int) -> int:
    """How many messages the receiver got, in order and byte for byte. The first is in its hands."""
    for seed in range(1, sent):
        two.receive(seed)
    return sent


def abuse(peer: arena.Subject) -> dict[str, Any]:
    delivered, usable = 0, False
    with pair(peer.name, peer.backing, arena.TERMS, arena.PAYLOAD) as two:
        failure, sent = fill(two)
        if sent and not isinstance(failure, Died):
            try:
                delivered = drain(two, sent)
                two.transfer(arena.TERMS.alive)
                usable = True
            except Failure as later:
                failure = failure or later
    return {
        "sigbus": bool(failure and failure.sigbus),
        "error": str(failure) if failure else None,
        "sent": sent,
        "delivered": delivered,
        "usable_afterwards": usable,
    }


if __name__ == "__main__":
    arena.main(abuse, SHM_NBYTES)
