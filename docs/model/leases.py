"""The lease protocol as an explicit-state model.

Processes put, share, forward, open, settle, revoke, release, join, leave and reap. Each may be killed between
any two steps; messages may be lost, delivered twice, to the wrong reader or to a new tenant. What must hold
in every state that can be reached:

* no use without a lease: whoever has a tensor over a block has its bit in that block's word;
* no use of freed or reused memory: the block is live and of the generation that was opened;
* no lost handle: a handle between two ends that are still there, and that was not revoked, can be opened;
* no leak: each bit that is set is sure to be given back, by a revoke only where a message was lost.

    python docs/model/leases.py readers=2 entries=1 puts=2 shares=2 kills=1 without=in-flight-hold

Rules carry the numbers of docs/protocol.md; README.md beside this file says what is modelled and what is not.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import lease_state as rules
from explore import Move, Result, Rule, main, search
from lease_lives import Lives
from lease_state import (
    COUNTING,
    JOINED,
    LEAVING,
    LOCKED,
    SCRUBBING,
    TENANT,
    Bounds,
    Opening,
    Releasing,
    State,
    initial,
)


class Leases(Lives):
    """Every move of the model, and what must hold after each."""

    def moves(self, s: State) -> Iterator[Move]:
        if s.indices[self.writer].lock == TENANT:
            yield from self.harvest(s)
            yield from self.put(s)
        for p, attachment in enumerate(s.attachments):
            if attachment.stage == JOINED:
                yield from self.share(s, p)
                yield from self.open(s, p)
            if attachment.stage in (JOINED, LEAVING):
                yield from self.drop(s, p)
                yield from self.settle(s, p)
                yield from self.revoke(s, p)
            yield from self.join(s, p)
            yield from self.leave(s, p)
            yield from self.kill(s, p)
        yield from self.reap(s)
        yield from self.transport(s)

    def fault(self, s: State) -> str:
        for p, attachment in enumerate(s.attachments):
            for e, (generation, alive) in enumerate(attachment.tensors):
                has = f"{self.name(p)} has a tensor over block {e}"
                if alive and s.words[e].generation != generation:
                    return f"reused memory: {has} of generation {generation}"
                if alive and not s.live[e]:
                    return f"freed memory: {has}"
                if alive and not s.words[e].leases >> p & 1:
                    return f"no lease: {has}"
        if s.indices[self.writer].lock == TENANT:
            for p in range(len(s.indices)):
                for e, word in enumerate(s.words):
                    if word.leases >> p & 1 and not self.given_back_one_day(s, p, e):
                        return f"leak: nobody will clear {self.name(p)}'s bit in block {e}"
        return ""

    def given_back_one_day(self, s: State, p: int, e: int) -> bool:
        """Bit p of block e is set: is there somebody who is sure to clear it?"""
        attachment, generation = s.attachments[p], s.words[e].generation
        if s.indices[p].lock != TENANT:
            return True  # a reaper
        if attachment.stage < COUNTING:
            return attachment.stage == LOCKED or attachment.scrubbed <= e  # the new tenant
        if not s.live[e]:
            return False
        if attachment.tensors[e].alive or isinstance(attachment.call, Releasing):
            return True
        on_block = [slot for slot, t in enumerate(attachment.tickets) if t and t[:2] == (e, generation)]
        return bool(on_block) and all(self.settled_one_day(s, p, slot) for slot in on_block)

    def settled_one_day(self, s: State, p: int, slot: int) -> bool:
        attachment, (sequence, unopened) = s.attachments[p], s.indices[p].row[slot]
        ticket = attachment.tickets[slot]
        assert ticket
        for q, (index, reader) in enumerate(zip(s.indices, s.attachments, strict=True)):
            if not unopened >> q & 1:
                continue
            departed = (index.lock != TENANT or reader.stage == LEAVING) and self.keeps(rules.SETTLE_DEPARTED)
            joining = reader.stage in (LOCKED, SCRUBBING, COUNTING) or index.epoch != attachment.epoch_seen[q]
            lost = ticket.lost >> q & 1 and self.keeps(rules.REVOKE)
            if departed or (joining and self.keeps(rules.SETTLE_EPOCH)) or lost:
                continue
            handle = (p, attachment.id, slot, sequence)
            on_its_way = any(m[4:8] == handle and (m.to, m.id) == (q, reader.id) for m in s.messages)
            opening = isinstance(reader.call, Opening) and reader.call.message[4:8] == handle
            if not on_its_way and not opening:
                return False
        return True


def explore(bounds: Bounds, removed: Collection[Rule] = (), limit: int | None = None) -> Result:
    """Visit every state within `bounds`, without the rules in `removed`; stop at the first violation."""
    model = Leases(bounds, removed)
    return search(initial(bounds), model.moves, model.fault, limit)


if __name__ == "__main__":
    main(Bounds, rules.RULES, explore)
