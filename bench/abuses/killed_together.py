"""SIGKILL of everybody in the middle of a transfer: how much shared memory is left, and for how long?

After verified transfers one message is in the receiver's hands, one on its way, and the sender is told to send one
more; at that moment every process is stopped, then killed. So it is when a container or a cgroup is ended. Then the
peer starts again, under the same names, transfers a message and ends in order: what is left then is left for good.

A peer that has a helper gets a second run, in which the helper lives on: an ordinary kill -9 of the two ends alone.
"""

import os
import shutil
from typing import Any

from bench.abuses import arena
from bench.peers.pair import Failure, Pair, pair

SHM_NBYTES = 1024 * arena.MIB
TRANSFERS = 3


def transfer_and_hold(two: Pair) -> None:
    """Leaves one message with the receiver, one on its way, and one in the making."""
    two.wait_until_ready()
    for seed in range(TRANSFERS):
        two.transfer(seed)
    two.transfer(TRANSFERS)
    two.send(TRANSFERS + 1)
    two.begin_to_send(TRANSFERS + 2)


def killed(peer: arena.Subject, *, with_helpers: bool) -> tuple[int, int]:
    """What is left once everybody, or everybody but the helpers, was killed."""
    with pair(peer.name, peer.backing, arena.TERMS, arena.PAYLOAD) as two:
        transfer_and_hold(two)
        pids = set(two.pids.values())
        arena.kill(process for process in arena.family() if with_helpers or process.pid in pids)
    if not with_helpers:
        arena.wait_for(lambda: not arena.family())
        arena.kill(arena.family())
    return arena.left_in(peer.places)


def start_again(peer: arena.Subject) -> str:
    """ "works", or what went wrong."""
    try:
        with pair(peer.name, peer.backing, arena.TERMS, arena.PAYLOAD) as two:
            two.wait_until_ready()
            two.transfer(0)
            two.close()
    except Failure as failure:
        return str(failure)
    finally:
        arena.wait_for(lambda: not arena.family())
        arena.kill(arena.family())
    return "works"


def empty(peer: arena.Subject) -> None:
    """Removes by hand what is left, for the next run."""
    for place in peer.places:
        for entry in os.scandir(place) if os.path.exists(place) else ():
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path)
            else:
                os.unlink(entry.path)


def abuse(peer: arena.Subject) -> dict[str, Any]:
    found: dict[str, Any] = {"bytes_left_if_helper_lives": None}
    try:
        if peer.has_helper:
            found["bytes_left_if_helper_lives"] = killed(peer, with_helpers=False)[0]
            empty(peer)
        found["bytes_left_at_once"], _ = killed(peer, with_helpers=True)
    except Failure as failure:
        return {"no_transfer": str(failure)}
    found["next_start"] = start_again(peer)
    found["bytes_left"], found["names_left"] = arena.left_in(peer.places)
    return found


if __name__ == "__main__":
    arena.main(abuse, SHM_NBYTES)
