"""The calls of the lease model: what living processes do to blocks, tickets and handles.

Each method yields the moves that one kind of call can make next; a call that is several atomic steps in
shared memory is several moves. What nobody but the process itself can see in between is one move.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import combinations

import lease_state as rules
from explore import Move, Rule, replaced
from lease_state import (
    FREE,
    Attachment,
    Bounds,
    Call,
    Message,
    Opening,
    Probed,
    Releasing,
    Sent,
    Sharing,
    Slot,
    State,
    Tensors,
    Ticket,
    Word,
)


class Calls:
    """Within `bounds`, without the rules in `removed`."""

    def __init__(self, bounds: Bounds, removed: Collection[Rule]) -> None:
        self.bounds = bounds
        self.removed = frozenset(removed)
        self.writer = bounds.readers
        self.entries = range(bounds.entries)

    def keeps(self, rule: Rule) -> bool:
        return rule not in self.removed

    def name(self, p: int) -> str:
        return "W" if p == self.writer else f"R{p}"

    # ---- the writer: rule 8 -------------------------------------------------------------------------------

    def harvest(self, s: State) -> Iterator[Move]:
        for e in self.entries:
            if s.live[e] and (s.words[e].leases == 0 or not self.keeps(rules.HARVEST_WAITS)):
                yield Move(f"W harvests block {e}", s._replace(live=replaced(s.live, e, False)))

    def put(self, s: State) -> Iterator[Move]:
        if s.spent.puts == self.bounds.puts:
            return
        for e in self.entries:
            generation = s.words[e].generation + 1
            retired = generation == self.bounds.generations and self.keeps(rules.RETIRE_GENERATIONS)
            if s.live[e] or retired:
                continue
            put = s._replace(
                words=replaced(s.words, e, Word(generation, 1 << self.writer)), live=replaced(s.live, e, True)
            )
            tensors = replaced(s.attachments[self.writer].tensors, e, Tensors(generation, 1))
            put = put.local(self.writer, tensors=tensors).used(puts=1)
            yield Move(f"W puts block {e} generation {generation}", put)

    # ---- giving back: rules 9 and 15 ----------------------------------------------------------------------

    def drop(self, s: State, p: int) -> Iterator[Move]:
        attachment = s.attachments[p]
        if mutex_held(attachment):
            return
        for e in self.entries:
            generation, alive = attachment.tensors[e]
            call = attachment.call
            if isinstance(call, Releasing) and call.entry == e:
                released = self.cleared(s.local(p, call=None), p, e, generation=call.generation)
                yield Move(f"{self.name(p)} clears its bit in block {e}", released)
            if alive <= in_use(call, e, self.keeps(rules.HELD_FOR_THE_CALL)):
                continue
            label = f"{self.name(p)} drops a tensor over block {e}"
            dropped = self.uncounted(s, p, e)
            released = self.given_back(dropped, p, e, generation)
            if released is not dropped and call is None and not self.keeps(rules.MUTEX):
                yield Move(f"{label}: counts down", dropped.local(p, call=Releasing(e, generation)))
            else:
                yield Move(label, released)

    def uncounted(self, s: State, p: int, e: int) -> State:
        generation, alive = s.attachments[p].tensors[e]
        left = Tensors(generation, alive - 1) if alive > 1 else Tensors(0, 0)
        return s.local(p, tensors=replaced(s.attachments[p].tensors, e, left))

    def given_back(self, s: State, p: int, e: int, generation: int) -> State:
        """Own bit out of the word, if p has no tensor over the block and no open ticket on it."""
        attachment = s.attachments[p]
        if attachment.tensors[e].alive and self.keeps(rules.OPEN_COUNT):
            return s
        in_flight = any(ticket and ticket[:2] == (e, generation) for ticket in attachment.tickets)
        if in_flight and self.keeps(rules.IN_FLIGHT_HOLD):
            return s
        return self.cleared(s, p, e, generation)

    def cleared(self, s: State, p: int, e: int, generation: int) -> State:
        return s.bit(p, e, False) if s.words[e].generation == generation else s

    # ---- sending: rules 10 to 12 --------------------------------------------------------------------------

    def share(self, s: State, p: int) -> Iterator[Move]:
        call = s.attachments[p].call
        if s.spent.shares < self.bounds.shares and (call is None or isinstance(call, Probed)):
            for label, looked_up, _ in self.look_up(s, p):
                yield Move(label, looked_up) if call is None else self.share_at_once(looked_up, p, call)
        elif isinstance(call, Sharing):
            yield self.take_ticket(s, p, call) if call.swept else self.sweep_for_share(s, p, call)
        elif isinstance(call, Sent):
            ticketed = self.ticketed(s, p, Ticket(call.entry, call.generation, 0), call.slot, call.unopened)
            yield Move(f"{self.name(p)} takes the ticket", ticketed)

    def share_at_once(self, looked_up: State, p: int, other: Probed) -> Move:
        """Another thread is between the steps of `other`; one call is all that an attachment remembers."""
        swept = next(self.share(looked_up, p))
        sent = next(self.share(swept.state, p))
        return Move(sent.label, sent.state.local(p, call=other))

    def look_up(self, s: State, p: int) -> Iterator[Move]:
        """Which index has this id? Nothing is held yet but the count of the tensor that is shared."""
        found = [
            (q, index.id)
            for q, index in enumerate(s.indices)
            if q != p and index.id and (q != self.writer or self.bounds.write_back)
        ]
        addressed = [*combinations(found, 1), *(combinations(found, 2) if self.bounds.broadcast else ())]
        for e, (generation, alive) in enumerate(s.attachments[p].tensors):
            for readers in addressed if alive else ():
                to = "+".join(self.name(q) for q, _ in readers)
                looked_up = s.local(p, call=Sharing(e, generation, readers, swept=False)).used(shares=1)
                yield Move(f"{self.name(p)} shares block {e} with {to}: looks the id up", looked_up)

    def sweep_for_share(self, s: State, p: int, call: Sharing) -> Move:
        """The mutex is taken; an epoch that changed takes its reader out of all open tickets first."""
        swept = s.local(p, call=call._replace(swept=True))
        for q, _ in call.readers:
            if self.keeps(rules.SWEEP_THEN_SHARE):
                swept = self.swept(swept, p, q)
        return Move(f"{self.name(p)} takes its mutex, looks for new epochs", swept)

    def swept(self, s: State, p: int, q: int) -> State:
        """p looks at the epoch of index q: after a new one, open tickets are not for this tenant."""
        epoch, seen = s.indices[q].epoch, s.attachments[p].epoch_seen
        if epoch == seen[q] or not self.keeps(rules.SETTLE_EPOCH):
            return s
        return self.unaddressed(s, p, q).local(p, epoch_seen=replaced(seen, q, epoch))

    def unaddressed(self, s: State, p: int, q: int) -> State:
        """Bit q out of every open ticket of p."""
        row = tuple(
            Slot(sequence, unopened & ~(1 << q)) if ticket else Slot(sequence, unopened)
            for (sequence, unopened), ticket in zip(s.indices[p].row, s.attachments[p].tickets, strict=True)
        )
        return s.shared(p, row=row)

    def take_ticket(self, s: State, p: int, call: Sharing) -> Move:
        """Still with the mutex: check the ids, take the ticket, send. Nobody there or no slot: inline."""
        attachment, e = s.attachments[p], call.entry
        readers = call.readers
        if self.keeps(rules.CHECK_ID_AGAIN):
            readers = tuple((q, former) for q, former in readers if s.indices[q].id == former)
        s = s.local(p, call=None)
        if not readers or None not in attachment.tickets:
            return Move(f"{self.name(p)} sends block {e} inline", s)
        slot = attachment.tickets.index(None)
        sequence = s.indices[p].row[slot].sequence + 1
        unopened = sum(1 << q for q, _ in readers)
        handle = (e, call.generation, p, attachment.id, slot, sequence)
        sent = [Message(q, reader, *handle, owed=True) for q, reader in readers]
        s = s._replace(messages=tuple(sorted((*s.messages, *sent))))
        label = f"{self.name(p)} sends the handle {slot}#{sequence}"
        if not self.keeps(rules.TICKET_THEN_SEND):
            return Move(label, s.local(p, call=Sent(e, call.generation, slot, unopened, sequence)))
        return Move(label, self.ticketed(s, p, Ticket(e, call.generation, 0), slot, unopened))

    def ticketed(self, s: State, p: int, ticket: Ticket, slot: int, unopened: int) -> State:
        row = s.indices[p].row
        s = s.shared(p, row=replaced(row, slot, Slot(row[slot].sequence + 1, unopened)))
        return s.local(p, tickets=replaced(s.attachments[p].tickets, slot, ticket), call=None)

    # ---- opening: rules 13 and 14 -------------------------------------------------------------------------

    def open(self, s: State, p: int) -> Iterator[Move]:
        call = s.attachments[p].call
        if isinstance(call, Opening):
            if not call.leased:
                yield self.take_lease(s, p, call.message)
            else:
                acknowledged = self.acknowledged(s.local(p, call=None), p, call.message)
                yield Move(f"{self.name(p)} acknowledges", acknowledged)
                if not call.refused and s.spent.refusals < self.bounds.refusals:
                    yield self.refuse(s, p, call)
        elif call is None or isinstance(call, Releasing):
            for message in dict.fromkeys(s.messages):
                if message.to == p:
                    arrived = s._replace(messages=without(s.messages, message))
                    if self.keeps(rules.LEASE_THEN_ACKNOWLEDGE) or call:
                        yield self.take_lease(arrived, p, message)
                    else:
                        early = self.acknowledged(arrived, p, message)
                        early = early.local(p, call=Opening(message, leased=False, refused=False))
                        yield Move(f"{self.name(p)} acknowledges first", early)

    def take_lease(self, s: State, p: int, message: Message) -> Move:
        """Own bit in, on the generation and a mask that is not empty; count + 1. No look at the ticket."""
        attachment, e = s.attachments[p], message.entry
        word, alive = s.words[e], attachment.tensors[e].alive
        current = self.same(word.generation, message.generation) or not self.keeps(rules.GENERATION_CHECK)
        if not current or not (word.leases or alive or not self.keeps(rules.MASK_NOT_ZERO)):
            meant = message.owed and attachment.id == message.id
            from_living = s.attachments[message.sender].id == message.sender_id
            lost = "lost handle: both ends are there and nobody revoked it" if meant and from_living else ""
            return Move(f"{self.name(p)} finds handle on block {e} stale", s.local(p, call=None), lost)
        wrong = "reused memory: the block holds another payload than was sent"
        tensors = replaced(attachment.tensors, e, Tensors(word.generation, alive + 1))
        opened = (s if alive else s.bit(p, e, True)).local(p, tensors=tensors)
        if isinstance(attachment.call, Releasing):  # another thread's; this one does the rest at once
            opened = self.acknowledged(opened, p, message)
        elif self.keeps(rules.LEASE_THEN_ACKNOWLEDGE):
            opened = opened.local(p, call=Opening(message, leased=True, refused=False))
        else:
            opened = opened.local(p, call=None)
        handle = f"{self.name(message.sender)}'s {message.slot}#{message.sequence}"
        label = f"{self.name(p)} opens block {e} by {handle}"
        return Move(label, disowed(opened, message), wrong if word.generation != message.generation else "")

    def same(self, generation: int, other: int) -> bool:
        return generation % self.bounds.generations == other % self.bounds.generations

    def acknowledged(self, s: State, p: int, message: Message) -> State:
        """Own bit out of the ticket. One that is gone, another by now, or not ours: nothing to do."""
        row = s.indices[message.sender].row
        sequence, unopened = row[message.slot]
        if sequence != message.sequence and self.keeps(rules.ON_SEQUENCE):
            return s
        row = replaced(row, message.slot, Slot(sequence, unopened & ~(1 << p)))
        return s.shared(message.sender, row=row)

    def refuse(self, s: State, p: int, call: Opening) -> Move:
        """The open fails after all, say a segment cannot be mapped: count and bit are undone."""
        after = call._replace(refused=True) if self.keeps(rules.ACKNOWLEDGE_REFUSAL) else None
        undone = self.uncounted(s, p, call.message.entry).local(p, call=after).used(refusals=1)
        undone = self.given_back(undone, p, call.message.entry, call.message.generation)
        return Move(f"{self.name(p)} cannot map the segment: undoes its lease", undone)

    # ---- settling: rules 16 and 17 ------------------------------------------------------------------------

    def settle(self, s: State, p: int) -> Iterator[Move]:
        attachment = s.attachments[p]
        if mutex_held(attachment):
            return
        addressed = 0
        for slot, ticket in enumerate(attachment.tickets):
            if ticket:
                unopened = s.indices[p].row[slot].unopened
                addressed |= unopened
                if not unopened:
                    yield Move(f"{self.name(p)} settles ticket {slot}", self.settled(s, p, slot, ticket))
        for q in range(len(s.indices)):
            if not addressed >> q & 1:
                continue
            swept = self.swept(s, p, q)
            if swept is not s:
                yield Move(f"{self.name(p)} sees the new epoch of {self.name(q)}", swept)
            if s.indices[q].lock == FREE and self.keeps(rules.SETTLE_DEPARTED):
                if self.keeps(rules.SETTLE_UNDER_MUTEX):
                    yield Move(f"{self.name(p)} sees that {self.name(q)} is gone", self.unaddressed(s, p, q))
                elif attachment.call is None:
                    yield Move(f"{self.name(p)} finds lock {q} free", s.local(p, call=Probed(q)))
        if isinstance(attachment.call, Probed):
            q = attachment.call.reader
            settled = self.unaddressed(s.local(p, call=None), p, q)
            yield Move(f"{self.name(p)} settles what went to {self.name(q)}", settled)

    def settled(self, s: State, p: int, slot: int, ticket: Ticket) -> State:
        s = s.local(p, tickets=replaced(s.attachments[p].tickets, slot, None))
        return self.given_back(s, p, ticket.entry, ticket.generation)

    def revoke(self, s: State, p: int) -> Iterator[Move]:
        if mutex_held(s.attachments[p]) or s.spent.revokes == self.bounds.revokes:
            return
        for slot, ticket in enumerate(s.attachments[p].tickets):
            if ticket:
                row = s.indices[p].row
                revoked = s.shared(p, row=replaced(row, slot, row[slot]._replace(unopened=0)))
                for message in s.messages:
                    if message[4:8] == (p, s.attachments[p].id, slot, row[slot].sequence):
                        revoked = disowed(revoked, message)
                revoked = self.settled(revoked, p, slot, ticket).used(revokes=1)
                yield Move(f"{self.name(p)} revokes ticket {slot}", revoked)


def in_use(call: Call, e: int, held_for_the_call: bool) -> int:
    """How many tensors over block e are in the hands of a call that has not returned."""
    if isinstance(call, Opening):
        return int(call.leased and not call.refused and call.message.entry == e)
    return int(isinstance(call, (Sharing, Sent)) and call.entry == e and held_for_the_call)


def mutex_held(attachment: Attachment) -> bool:
    return isinstance(attachment.call, Sharing) and attachment.call.swept


def without(messages: tuple[Message, ...], message: Message) -> tuple[Message, ...]:
    at = messages.index(message)
    return (*messages[:at], *messages[at + 1 :])


def disowed(s: State, message: Message) -> State:
    """Other copies of `message` to the same reader need not open any more."""
    copies = (message._replace(owed=True), message._replace(owed=False))
    return s._replace(messages=tuple(sorted(copies[1] if m in copies else m for m in s.messages)))
