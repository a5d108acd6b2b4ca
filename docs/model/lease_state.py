"""What the lease model knows of the world: its bounds, its rules, and the state, as nested tuples.

The state is split as the memory is. `words` and `indices` lie in the control segment; `live` is private to
the writer; an `Attachment` is private to one process; `messages` are on their way. Fields marked (ghost)
exist in no process: they only let the model tell a wrong state from a right one.

No two kinds of call in `Attachment.call` may have the same shape: tuples with equal items are equal, whatever
their type.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias

from explore import Rule, replaced


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much of everything one exploration allows. The defaults are the small bound that the tests run."""

    readers: int = 2
    entries: int = 1
    slots: int = 2  # tickets that one process can have open
    puts: int = 2
    shares: int = 2
    kills: int = 1  # of the writer, a reader or a reaper
    tenants: int = 1  # joins to an index that had a tenant before
    leaves: int = 0
    losses: int = 0  # messages lost between two processes that go on living
    copies: int = 0  # messages delivered once more, to the same reader or to another one
    revokes: int = 0
    refusals: int = 0  # opens that fail after the lease was taken
    broadcast: int = 0  # 1: a share may name two readers
    write_back: int = 0  # 1: readers may share with the writer
    generations: int = 64  # values that the generation field of a word can take


IN_FLIGHT_HOLD: Final = Rule(15, "in-flight-hold", "no release while a ticket on the block is open")
OPEN_COUNT: Final = Rule(15, "open-count", "no release while another tensor over the block lives")
MUTEX: Final = Rule(9, "mutex", "count and bit change together")
SETTLE_UNDER_MUTEX: Final = Rule(9, "settle-under-mutex", "to probe a lock and to settle are one step")
HARVEST_WAITS: Final = Rule(8, "harvest-waits", "only a block with an empty mask goes back to the allocator")
GENERATION_CHECK: Final = Rule(13, "generation-check", "an open needs the generation that the handle names")
MASK_NOT_ZERO: Final = Rule(13, "mask-not-zero", "an open needs a block on which somebody has a lease")
LEASE_THEN_ACKNOWLEDGE: Final = Rule(13, "lease-then-acknowledge", "an open acknowledges last")
ACKNOWLEDGE_REFUSAL: Final = Rule(13, "acknowledge-refusal", "an open that fails after (a) acknowledges too")
ON_SEQUENCE: Final = Rule(13, "on-sequence", "an acknowledgement counts only for its ticket's sequence")
RETIRE_GENERATIONS: Final = Rule(1, "retire-generations", "the highest generation is an entry's last")
LOCK_SURVIVES: Final = Rule(3, "lock-survives", "no stray close and no forked child drops a lock")
LOCK_OUTLIVES_LEASES: Final = Rule(3, "lock-outlives-leases", "the lock outlasts every lease and ticket")
CLEAR_ID_ON_LEAVE: Final = Rule(3, "clear-id-on-leave", "a reader clears its id before it drops its lock")
SCRUB: Final = Rule(5, "scrub", "a new tenant clears its bit everywhere before its first use")
WIPE_ROW: Final = Rule(5, "wipe-row", "a new tenant wipes its row of tickets")
SEQUENCE_GOES_ON: Final = Rule(5, "sequence-goes-on", "a wiped slot keeps its sequence")
RETIRE_ID: Final = Rule(5, "retire-id", "a new tenant clears the former id before it raises the epoch")
FRESH_ID: Final = Rule(5, "fresh-id", "each tenancy has an id of its own, even of one process")
REAP_HOLDS_LOCK: Final = Rule(6, "reap-holds-lock", "a reaper holds the lock while it clears")
WRITER_NOT_REAPED: Final = Rule(7, "writer-not-reaped", "the writer's bit is never reaped")
HELD_FOR_THE_CALL: Final = Rule(10, "held-for-the-call", "a share holds a tensor until it returns")
TICKET_THEN_SEND: Final = Rule(11, "ticket-then-send", "the ticket is taken before the handle leaves")
SWEEP_THEN_SHARE: Final = Rule(11, "sweep-then-share", "a share looks for new epochs before its ticket")
CHECK_ID_AGAIN: Final = Rule(11, "check-id-again", "after that look, a share checks the id again")
SETTLE_DEPARTED: Final = Rule(16, "settle-departed", "a ticket is settled when its reader's lock is free")
SETTLE_EPOCH: Final = Rule(16, "settle-epoch", "a ticket is settled when its index has a new epoch")
REVOKE: Final = Rule(17, "revoke", "a message that was lost is revoked")

RULES: Final = tuple(value for value in list(globals().values()) if isinstance(value, Rule))

# Who holds the lock of an index.
FREE, TENANT, REAPER = 0, 1, 2

# How far a tenancy has come. From LOCKED to PUBLISHING it is joining; it is addressed from JOINED on.
GONE, LOCKED, SCRUBBING, COUNTING, PUBLISHING, JOINED, LEAVING = range(7)


class Word(NamedTuple):
    """The state word of one entry. `generation` never wraps here: what wraps is compared by `Leases.same`."""

    generation: int
    leases: int


class Slot(NamedTuple):
    """One ticket in its sender's shared row; `unopened`: the bits of the readers that have still to open."""

    sequence: int
    unopened: int


class Index(NamedTuple):
    """What is shared of one index; the last one is the writer's."""

    lock: int
    epoch: int
    id: int  # of the tenancy; 0: nobody is addressed here
    row: tuple[Slot, ...]


class Tensors(NamedTuple):
    """How many tensors a process has over a block, and of which generation."""

    generation: int
    alive: int


class Ticket(NamedTuple):
    """What a sender remembers of a ticket that is open."""

    entry: int
    generation: int
    lost: int  # (ghost) bits of living readers whose message was lost


class Sharing(NamedTuple):
    """A share after it looked the ids up or, when `swept`, with the mutex held after the sweep."""

    entry: int
    generation: int
    readers: tuple[tuple[int, int], ...]  # (index, id)
    swept: bool


class Message(NamedTuple):
    """A handle on its way to the process that had `id` at index `to`."""

    to: int
    id: int
    entry: int
    generation: int
    sender: int
    sender_id: int
    slot: int
    sequence: int
    owed: bool  # (ghost) not revoked, and no copy of it has been opened


class Opening(NamedTuple):
    """An open between its steps."""

    message: Message
    leased: bool  # the bit is set and counted; the ticket is still to be acknowledged
    refused: bool


class Releasing(NamedTuple):
    """Only without MUTEX: the count has reached zero, the bit is still to be cleared."""

    entry: int
    generation: int


class Probed(NamedTuple):
    """Only without SETTLE_UNDER_MUTEX: the lock of `reader` was seen free."""

    reader: int


class Sent(NamedTuple):
    """Only without TICKET_THEN_SEND: the handle has left, its ticket is still to be taken."""

    entry: int
    generation: int
    slot: int
    unopened: int
    sequence: int


Call: TypeAlias = Sharing | Opening | Releasing | Probed | Sent | None


class Attachment(NamedTuple):
    """One process's private memory of the ring. At most one call of it is between two steps at a time."""

    stage: int
    id: int
    scrubbed: int  # entries that are scrubbed, while SCRUBBING
    tensors: tuple[Tensors, ...]  # by entry
    tickets: tuple[Ticket | None, ...]  # by slot
    epoch_seen: tuple[int, ...]  # by index
    call: Call


class Reaper(NamedTuple):
    """Somebody who gives back what the former tenant of an index held."""

    of: int
    cleared: int  # entries


class Spent(NamedTuple):
    """How much of the bounds is used up."""

    puts: int = 0
    shares: int = 0
    kills: int = 0
    tenants: int = 0
    leaves: int = 0
    losses: int = 0
    copies: int = 0
    revokes: int = 0
    refusals: int = 0


class State(NamedTuple):
    words: tuple[Word, ...]
    live: tuple[bool, ...]  # by entry: the block is out of the allocator
    indices: tuple[Index, ...]
    attachments: tuple[Attachment, ...]
    messages: tuple[Message, ...]  # sorted: they arrive in any order
    reaper: Reaper | None
    spent: Spent

    def shared(self, p: int, **changes: object) -> State:
        """This state with changes to what is shared of index p."""
        return self._replace(indices=replaced(self.indices, p, self.indices[p]._replace(**changes)))  # type: ignore[arg-type]

    def local(self, p: int, **changes: object) -> State:
        """This state with changes to what is private to process p."""
        changed = self.attachments[p]._replace(**changes)  # type: ignore[arg-type]
        return self._replace(attachments=replaced(self.attachments, p, changed))

    def bit(self, p: int, entry: int, on: bool) -> State:
        """This state with the lease bit of p in the word of `entry` set or cleared."""
        generation, leases = self.words[entry]
        leases = leases | 1 << p if on else leases & ~(1 << p)
        return self._replace(words=replaced(self.words, entry, Word(generation, leases)))

    def used(self, **more: int) -> State:
        """This state with more of the bounds used up."""
        sums = {what: getattr(self.spent, what) + number for what, number in more.items()}
        return self._replace(spent=self.spent._replace(**sums))


def initial(bounds: Bounds) -> State:
    """A writer and all its readers, joined; nothing put yet."""
    row = (Slot(0, 0),) * bounds.slots
    processes = bounds.readers + 1
    attachment = blank(bounds)._replace(stage=JOINED, id=1, epoch_seen=(1,) * processes)
    return State(
        words=(Word(0, 0),) * bounds.entries,
        live=(False,) * bounds.entries,
        indices=(Index(TENANT, 1, 1, row),) * processes,
        attachments=(attachment,) * processes,
        messages=(),
        reaper=None,
        spent=Spent(),
    )


def blank(bounds: Bounds) -> Attachment:
    """The private memory of a process that has not joined."""
    return Attachment(
        stage=GONE,
        id=0,
        scrubbed=0,
        tensors=(Tensors(0, 0),) * bounds.entries,
        tickets=(None,) * bounds.slots,
        epoch_seen=(0,) * (bounds.readers + 1),
        call=None,
    )
