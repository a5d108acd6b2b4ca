"""What happens around the calls of the lease model: processes come, go and are killed; messages go astray."""

from __future__ import annotations

from collections.abc import Iterator

import lease_state as rules
from explore import Move, replaced
from lease_calls import Calls, without
from lease_state import (
    COUNTING,
    FREE,
    GONE,
    JOINED,
    LEAVING,
    LOCKED,
    PUBLISHING,
    REAPER,
    SCRUBBING,
    TENANT,
    Reaper,
    Slot,
    State,
    blank,
)


class Lives(Calls):
    """The calls, and what happens around them."""

    # ---- coming and going: rules 3, 5, 6 and 7 ------------------------------------------------------------

    def join(self, s: State, p: int) -> Iterator[Move]:
        """A new tenant of index p, one store in shared memory at a time. Its id comes last."""
        stage, index, who = s.attachments[p].stage, s.indices[p], f"new {self.name(p)}"
        if stage == GONE:
            unused = not any(alive for _, alive in s.attachments[p].tensors)
            open_ring = p != self.writer and s.indices[self.writer].lock == TENANT
            if open_ring and unused and index.lock == FREE and s.spent.tenants < self.bounds.tenants:
                locked = s.shared(p, lock=TENANT).local(p, stage=LOCKED).used(tenants=1)
                yield Move(f"{who} takes the lock", locked)
        elif stage == LOCKED:
            stage = SCRUBBING if self.keeps(rules.SCRUB) else COUNTING
            cleared = s.shared(p, id=0) if self.keeps(rules.RETIRE_ID) else s
            yield Move(f"{who} clears the former id", cleared.local(p, stage=stage))
        elif stage == SCRUBBING:
            e = s.attachments[p].scrubbed
            last = e + 1 == self.bounds.entries
            then = {"stage": COUNTING, "scrubbed": 0} if last else {"scrubbed": e + 1}
            yield Move(f"{who} scrubs block {e}", s.bit(p, e, False).local(p, **then))
        elif stage == COUNTING:
            row = index.row
            if self.keeps(rules.WIPE_ROW):
                goes_on = self.keeps(rules.SEQUENCE_GOES_ON)
                row = tuple(Slot(sequence if goes_on else 0, 0) for sequence, _ in row)
            counted = s.shared(p, row=row, epoch=index.epoch + 1).local(p, stage=PUBLISHING)
            yield Move(f"{who} wipes its row, raises the epoch", counted)
        elif stage == PUBLISHING:
            own_id = index.epoch if self.keeps(rules.FRESH_ID) else s.attachments[p].id or index.epoch
            seen = tuple(other.epoch for other in s.indices)
            joined = s.shared(p, id=own_id).local(p, stage=JOINED, id=own_id, epoch_seen=seen)
            yield Move(f"{who} publishes its id", joined)

    def leave(self, s: State, p: int) -> Iterator[Move]:
        """A reader closes: its id goes at once, so nobody addresses it; its lock when it holds nothing."""
        attachment, index = s.attachments[p], s.indices[p]
        if attachment.stage == LEAVING:
            busy = any(alive for _, alive in attachment.tensors) or any(attachment.tickets) or attachment.call
            if not busy or not self.keeps(rules.LOCK_OUTLIVES_LEASES):
                after = attachment._replace(stage=GONE, id=0 if self.keeps(rules.FRESH_ID) else attachment.id)
                gone = s._replace(attachments=replaced(s.attachments, p, after))
                yield Move(f"{self.name(p)} drops its lock", gone.shared(p, lock=FREE))
        elif attachment.stage == JOINED and p != self.writer:
            if attachment.call is None and s.spent.leaves < self.bounds.leaves:
                unlisted = s.shared(p, id=0) if self.keeps(rules.CLEAR_ID_ON_LEAVE) else s
                closing = unlisted.local(p, stage=LEAVING).used(leaves=1)
                yield Move(f"{self.name(p)} closes: no id any more", closing)
            if index.lock == TENANT and not self.keeps(rules.LOCK_SURVIVES):
                yield Move(f"{self.name(p)} closes a stray descriptor", s.shared(p, lock=FREE))

    def kill(self, s: State, p: int) -> Iterator[Move]:
        if s.attachments[p].stage == GONE or s.spent.kills == self.bounds.kills:
            return
        dead = blank(self.bounds)
        if p == self.writer:
            dead = dead._replace(id=s.attachments[p].id)  # what a dead writer sent still opens
        killed = s._replace(attachments=replaced(s.attachments, p, dead)).shared(p, lock=FREE)
        yield Move(f"KILL {self.name(p)}", killed.used(kills=1))

    def reap(self, s: State) -> Iterator[Move]:
        """One reaper at a time, whoever it is: a writer without room, `reap()`, the command line."""
        if s.reaper is None:
            for p, index in enumerate(s.indices):
                held = index.lock == FREE and any(word.leases >> p & 1 for word in s.words)
                if held and (p != self.writer or not self.keeps(rules.WRITER_NOT_REAPED)):
                    locked = s.shared(p, lock=REAPER) if self.keeps(rules.REAP_HOLDS_LOCK) else s
                    yield Move(f"reaper finds lock {p} free", locked._replace(reaper=Reaper(p, 0)))
            return
        p, e = s.reaper
        ended = s.shared(p, lock=FREE) if s.indices[p].lock == REAPER else s
        ended = ended._replace(reaper=None)
        if e < self.bounds.entries:
            cleared = s.bit(p, e, False)._replace(reaper=Reaper(p, e + 1))
            yield Move(f"reaper clears {self.name(p)} in block {e}", cleared)
            if s.spent.kills < self.bounds.kills:
                yield Move("KILL reaper", ended.used(kills=1))
        else:
            yield Move(f"reaper drops lock {p}", ended)

    # ---- the transport: lost, doubled and misdirected messages --------------------------------------------

    def transport(self, s: State) -> Iterator[Move]:
        for message in dict.fromkeys(s.messages):
            to, sender = message.to, message.sender
            gone = s._replace(messages=without(s.messages, message))
            label = f"{self.name(sender)}'s {message.slot}#{message.sequence}"
            there = s.attachments[to].id == message.id and s.attachments[to].stage == JOINED
            sent = s.attachments[sender].stage != GONE and s.attachments[sender].id == message.sender_id
            if not (there and sent):
                yield Move(f"{label} is lost with a dead end", gone)
            elif s.spent.losses < self.bounds.losses:
                ticket = s.attachments[sender].tickets[message.slot]
                current = s.indices[sender].row[message.slot].sequence == message.sequence
                if ticket and message.owed and current:
                    noted = ticket._replace(lost=ticket.lost | 1 << to)
                    tickets = replaced(s.attachments[sender].tickets, message.slot, noted)
                    gone = gone.local(sender, tickets=tickets)
                yield Move(f"LOST {label}", gone.used(losses=1))
            if s.spent.copies < self.bounds.copies:
                for q in range(self.writer):
                    addressee = message.id if q == to else s.attachments[q].id
                    copy = message._replace(to=q, id=addressee, owed=False)
                    copied = s._replace(messages=tuple(sorted((*s.messages, copy)))).used(copies=1)
                    yield Move(f"COPY of {label} to {self.name(q)}", copied)
