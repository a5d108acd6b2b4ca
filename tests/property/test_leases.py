"""The real core and a model of it, driven through the same steps and compared after each of them.

One writer and several readers live in this one process (see places.py), so every order of puts, shares, opens,
drops, revokes, deaths, reaps and arrivals is possible, and each run of a failing order is the same. After each
step every word of the block table, every ticket on its way, the allocator's bytes and the bytes of every living
tensor must be what the oracle says. An open gives the right bytes or `StaleHandleError`, whatever came before; on
memfd also `SegmentError`, for a segment that was not mapped while the writer lived.
"""

import itertools
import sys
from typing import Final

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from shmtransport import (
    Handle,
    Inline,
    Ring,
    RingFullError,
    SegmentError,
    SegmentNotFoundError,
    StaleHandleError,
    segment,
)
from shmtransport.endpoint import Endpoint
from shmtransport.tensors import Tensor
from tests.peers import join_as_if_another_process
from tests.property.holdings import Held, Sent, bytes_of, choose, pattern
from tests.property.oracle import WRITER, Block, Opening, Oracle, Process
from tests.property.places import SharedWords
from tests.support import BACKING, wait_until

CAPACITY: Final = 1 << 20
SEGMENT: Final = 256 << 10
ENTRIES: Final = 5
MOST_READERS: Final = 5
KEPT_HANDLES: Final = 24

SETTINGS: Final = settings(
    max_examples=600,
    stateful_step_count=50,
    phases=[phase for phase in Phase if phase is not Phase.explain],  # which traces every line
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)

SIZES: Final = st.one_of(
    st.integers(1, 300),
    st.sampled_from([4095, 4096, 65535, 65536, 65537, SEGMENT // 2, SEGMENT - 1]),
    st.sampled_from([SEGMENT, SEGMENT + 1, 3 * SEGMENT, CAPACITY, CAPACITY + 1]),
    st.integers(1, SEGMENT),
)


class Leases(RuleBasedStateMachine):
    """Rules are steps of one process or another; the invariant compares."""

    @initialize(readers=st.integers(1, 3))
    def create(self, readers: int) -> None:
        self.ring = Ring.create(capacity=CAPACITY, segment=SEGMENT, entries=ENTRIES, on_full="raise", name="writer")
        self.words = SharedWords(self.ring.id, ENTRIES)
        self.oracle = Oracle(
            capacity_nbytes=CAPACITY, segment_nbytes=SEGMENT, entries=ENTRIES, anonymous=BACKING == "memfd"
        )
        self.endpoints: dict[str, Endpoint] = {WRITER: self.ring}
        self.peer_ids = {WRITER: self.ring.peer_id}
        self.held: list[Held] = []
        self.dead: list[object] = []
        self.sent: list[Sent] = []
        self.waits = False
        self.numbers = itertools.count(1)
        for _ in range(readers):
            self.join(writable=False)

    # Who may do what

    def process(self, name: str) -> Process:
        return self.oracle.processes[name]

    def active(self) -> list[str]:
        """Those that can make calls."""
        return [name for name, process in self.oracle.processes.items() if process.lives and not process.closed]

    def readers(self) -> list[str]:
        return [name for name in self.active() if name != WRITER]

    def writes(self) -> bool:
        return WRITER in self.active()

    def usable(self) -> list[Held]:
        """Tensors of processes that can make calls."""
        return [held for held in self.held if not self.process(held.owner).closed]

    # Steps

    @precondition(lambda self: self.oracle.processes[WRITER].lives and len(self.readers()) < MOST_READERS)
    @rule(writable=st.booleans() if BACKING == "posix" else st.just(False))
    def join(self, writable: bool) -> None:
        name = f"reader {next(self.numbers)}"
        reader = join_as_if_another_process(self.ring.id, name, writable=writable)
        index = self.oracle.join(name)
        assert reader.attachment.index == index
        assert not (self.words.tickets[index] & 0xFFFFFFFF).any(), "a new tenant inherits a ticket"
        self.endpoints[name] = reader
        self.peer_ids[name] = reader.peer_id

    @precondition(lambda self: not self.oracle.processes[WRITER].lives and self.active())
    @rule()
    def try_to_join_a_ring_without_a_writer(self) -> None:
        with pytest.raises(SegmentNotFoundError):
            join_as_if_another_process(self.ring.id)

    @precondition(lambda self: self.writes())
    @rule(nbytes=SIZES, how=st.sampled_from(["torch", "numpy", "empty"]))
    def put(self, nbytes: int, how: str) -> None:
        expected = pattern(next(self.numbers), nbytes)
        fits = self.oracle.can_put(nbytes)
        try:
            if how == "empty":
                tensor: Tensor = self.ring.empty(nbytes, torch.uint8)
                bytes_of(tensor)[:] = expected
            elif how == "torch":
                tensor = self.ring.put(torch.from_numpy(expected))
            else:
                tensor = self.ring.put(expected)
        except RingFullError:
            assert not fits, f"{nbytes} bytes have room"
            return
        assert fits, f"{nbytes} bytes have no room"
        word_of = {block[0]: block for block in self.ring.attachment.core.blocks()}
        (entry,) = [e for e, b in word_of.items() if e not in self.oracle.live and b[2] == 1]
        _, generation, _, number, offset, stored_nbytes, _ = word_of[entry]
        assert stored_nbytes == nbytes
        block = Block(entry, generation, number, offset, nbytes)
        self.oracle.put(block)
        self.held.append(Held(WRITER, block, tensor, expected, 0))

    @precondition(lambda self: self.writes() and any(held.owner == WRITER for held in self.held))
    @rule(draw=st.data())
    def put_what_is_in_the_ring_already(self, draw: st.DataObject) -> None:
        held = choose(draw, [held for held in self.held if held.owner == WRITER])
        assert self.ring.put(held.tensor) is held.tensor

    @precondition(lambda self: self.usable())
    @rule(draw=st.data(), then_drop=st.booleans())
    def share(self, draw: st.DataObject, then_drop: bool) -> None:
        """With one, several, oneself; at times with one who has left or died."""
        held = choose(draw, self.usable(), "tensor")
        known = self.active() if draw.draw(st.integers(0, 7)) else list(self.oracle.processes)
        self.send(draw, held, draw.draw(st.sets(st.sampled_from(known), min_size=1, max_size=3), label="to"))
        if then_drop:  # from here on the ticket alone covers the block
            self.held.remove(held)
            self.oracle.drop(held.owner, held.block)

    @precondition(lambda self: len(self.readers()) > 1 and any(held.owner != WRITER for held in self.usable()))
    @rule(draw=st.data())
    def forward(self, draw: st.DataObject) -> None:
        held = choose(draw, [held for held in self.usable() if held.owner != WRITER], "tensor")
        self.send(draw, held, {choose(draw, [name for name in self.readers() if name != held.owner], "to")})

    def send(self, draw: st.DataObject, held: Held, to: set[str]) -> None:
        """The whole tensor or a slice of it."""
        start = draw.draw(st.integers(0, len(held.expected) - 1) if draw.draw(st.booleans()) else st.just(0))
        stop = draw.draw(st.integers(start + 1, len(held.expected))) if start else len(held.expected)
        answer = self.endpoints[held.owner].share(held.tensor[start:stop], [self.peer_ids[name] for name in sorted(to)])
        expected = held.expected[start:stop]
        if isinstance(answer, Inline):
            assert not self.oracle.reachable(to), f"inline, though all of {to} have joined"
            assert bytes(answer.payload) == expected.tobytes()
            return
        assert self.oracle.reachable(to), f"a handle for {to}, and one of them has not joined"
        assert (answer.entry, answer.generation) == (held.block.entry, held.block.generation)
        assert answer.offset == held.start + start
        self.oracle.share(held.owner, held.block, to, answer.ticket, answer.sequence)
        self.sent.append(Sent(bytes(answer), held.owner, to, held.block, expected, held.start + start))
        settled = [sent for sent in self.sent if self.oracle.ticket(sent.sender, sent.ticket) is None]
        for old in settled[:-KEPT_HANDLES]:
            self.sent.remove(old)

    @precondition(lambda self: self.expected_opens())
    @rule(draw=st.data())
    def open_as_sent(self, draw: st.DataObject) -> None:
        sent, name = choose(draw, self.expected_opens(), "handle and by whom")
        self.open(sent, name)

    @precondition(lambda self: self.outlived() and self.active())
    @rule(draw=st.data())
    def open_after_its_entry_was_used_again(self, draw: st.DataObject) -> None:
        self.open(choose(draw, self.outlived(), "handle"), choose(draw, self.active(), "by"))

    def outlived(self) -> list[Sent]:
        """Handles of blocks in whose entry another block lives now."""
        live = self.oracle.live
        return [sent for sent in self.sent if live.get(sent.block.entry, sent.block) is not sent.block]

    @precondition(lambda self: self.sent and self.active())
    @rule(draw=st.data())
    def open_whatever_by_whomever(self, draw: st.DataObject) -> None:
        """Late, again, not being addressed, after a revoke, after the sender's death, with another's index."""
        self.open(choose(draw, self.sent, "handle"), choose(draw, self.active(), "by"))

    def expected_opens(self) -> list[tuple[Sent, str]]:
        """Handles that are on their way, and who waits for them."""
        tickets = [(sent, self.oracle.ticket(sent.sender, sent.ticket)) for sent in self.sent]
        active = self.active()
        return [(sent, name) for sent, t in tickets if t for name in sorted(t.awaited) if name in active]

    def open(self, sent: Sent, name: str) -> None:
        expected = self.oracle.open(name, sent.block, sent.sender, sent.ticket)
        try:
            tensor = self.endpoints[name].open(sent.wire)
        except StaleHandleError:
            assert expected is Opening.STALE
            return
        except SegmentError:
            assert expected is Opening.UNMAPPED
            return
        assert expected is Opening.TENSOR
        self.held.append(Held(name, sent.block, tensor, sent.expected, sent.start))

    @precondition(lambda self: self.held)
    @rule(draw=st.data())
    def drop(self, draw: st.DataObject) -> None:
        held = choose(draw, self.held, "tensor")
        self.held.remove(held)
        self.oracle.drop(held.owner, held.block)

    @precondition(lambda self: any(sent.sender in self.active() for sent in self.sent))
    @rule(draw=st.data())
    def revoke(self, draw: st.DataObject) -> None:
        sent = choose(draw, [sent for sent in self.sent if sent.sender in self.active()])
        some = draw.draw(st.none() | st.sets(st.sampled_from(sorted(sent.to)), min_size=1), label="from")
        ids = None if some is None else [self.peer_ids[name] for name in some]
        endpoint = self.endpoints[sent.sender]
        expected = self.oracle.revoke(sent.sender, sent.ticket, some)
        assert endpoint.revoke(Handle.from_bytes(sent.wire), ids) == expected or expected is None

    @precondition(lambda self: self.sent and len(self.active()) > 1)
    @rule(draw=st.data())
    def revoke_what_another_has_sent(self, draw: st.DataObject) -> None:
        sent = choose(draw, self.sent)
        others = [name for name in self.active() if name != sent.sender]
        assert not self.endpoints[choose(draw, others)].revoke(Handle.from_bytes(sent.wire))

    @precondition(lambda self: self.active() and any(not p.lives for p in self.oracle.processes.values()))
    @rule(draw=st.data())
    def reap(self, draw: st.DataObject) -> None:
        name = choose(draw, self.active())
        assert self.endpoints[name].reap() == self.oracle.reap(name)

    @precondition(lambda self: self.busy_readers())
    @rule(draw=st.data())
    def kill_a_reader(self, draw: st.DataObject) -> None:
        self.kill(choose(draw, self.busy_readers()))

    def busy_readers(self) -> list[str]:
        """Those that hold something or wait for something, and so leave something behind."""
        awaited = {name for p in self.oracle.processes.values() for ticket in p.tickets for name in ticket.awaited}
        return [n for n in self.readers() if n in awaited or self.process(n).tensors or self.process(n).tickets]

    @precondition(lambda self: self.writes() and len(self.readers()) > 1 and len(self.sent) > 3)
    @rule(sure=st.sampled_from([False, False, False, True]))
    def kill_the_writer(self, sure: bool) -> None:
        if sure:
            self.kill(WRITER)

    def kill(self, name: str) -> None:
        """What it held still exists in this process, and must change nothing when it goes."""
        self.endpoints[name].attachment.core.abandon()
        self.dead += [self.endpoints.pop(name), *(held.tensor for held in self.held if held.owner == name)]
        self.held = [held for held in self.held if held.owner != name]
        self.oracle.kill(name)

    @rule()
    def bury_the_dead(self) -> None:
        self.dead.clear()

    @precondition(lambda self: len(self.active()) > 2 and self.sent)
    @rule(draw=st.data())
    def close(self, draw: st.DataObject) -> None:
        """Its tensors and tickets may outlive the call; then it leaves later, by itself."""
        name = choose(draw, [*self.readers() * 3, *self.active()])
        self.waits |= bool(self.process(name).tickets)
        self.endpoints.pop(name).close()
        self.oracle.close(name)

    # What must hold

    @invariant()
    def the_core_and_the_oracle_agree(self) -> None:
        if not hasattr(self, "ring"):
            return
        if self.waits:  # for the thread of a place that was closed with handles on their way
            try:
                wait_until(self.has_caught_up, 10.0)
            except AssertionError:
                self.compare()
                raise
            self.waits = any(process.lives and process.closed for process in self.oracle.processes.values())
        self.compare()

    def has_caught_up(self) -> bool:
        """Settles whoever can be made to; whether the words are right and whoever should have left is gone."""
        cores = [self.endpoints[name].attachment.core for name in self.active()]
        for core in cores:
            core.settle()
        living = {process.index for process in self.oracle.processes.values() if process.lives}
        gone = all({row[0] for row in core.rows() if row[2]} == living for core in cores[:1])
        return gone and self.words.blocks.tolist() == self.oracle.words()

    def compare(self) -> None:
        living = sum(1 << process.index for process in self.oracle.processes.values() if process.lives)
        for name in self.active():
            process = self.process(name)
            assert self.endpoints[name].attachment.core.settle() == len(process.tickets), f"open tickets of {name}"
            for ticket in process.tickets:
                word = int(self.words.tickets[process.index, ticket.number])
                awaited = [self.process(other) for other in ticket.awaited]
                assert word >> 32 == ticket.sequence
                assert word & living == sum(1 << other.index for other in awaited if other.may_open)
        differ = [
            f"entry {entry} is {was:x}, expected {should:x}"
            for entry, (was, should) in enumerate(zip(self.words.blocks.tolist(), self.oracle.words(), strict=True))
            if was != should
        ]
        assert not differ, differ
        if self.writes():
            used, total, _, live = self.ring.attachment.core.room()
            oracle = self.oracle
            assert (used, total, live) == (oracle.used_nbytes(), sum(oracle.segments), len(oracle.live))
        for held in self.held:
            assert np.array_equal(bytes_of(held.tensor), held.expected), f"other bytes in a tensor of {held.owner}"

    def teardown(self) -> None:
        if not hasattr(self, "ring"):
            return
        failed = sys.exc_info()[0] is not None  # its traceback may hold tensors: there is no waiting for them to go
        try:
            if not failed:
                self.nothing_is_left()
        finally:
            self.held.clear()
            self.dead.clear()
            self.endpoints.clear()
            self.ring.close()
            if not failed:  # the last one out may not have gone but died, or its thread may still be busy
                wait_until(self.is_swept, 10.0)

    def is_swept(self) -> bool:
        segment.sweep()
        return self.ring.id not in segment.rings()

    def nothing_is_left(self) -> None:
        """What is on its way is opened, what is held dropped, who is dead reaped: then all is free again."""
        for sent, name in self.expected_opens():
            self.open(sent, name)
            self.the_core_and_the_oracle_agree()
        while self.held:
            held = self.held.pop()
            self.oracle.drop(held.owner, held.block)
            del held
        self.the_core_and_the_oracle_agree()
        if self.writes():
            assert self.ring.reap() == self.oracle.reap(WRITER)
            assert self.oracle.live == {}
            assert self.ring.attachment.core.room()[0] == 0
            for nbytes in self.oracle.segments:  # whole again, however it was cut up
                self.held.append(
                    Held(WRITER, Block(0, 0, 0, 0, 0), self.ring.empty(nbytes, torch.uint8), pattern(0, 0), 0)
                )
            assert self.ring.attachment.core.room()[0] == sum(self.oracle.segments)


@pytest.mark.timeout(240)  # finding the shortest failing order takes longer than finding none
def test_in_any_order_of_steps_the_core_does_what_the_protocol_says() -> None:
    run_state_machine_as_test(Leases, settings=SETTINGS)
