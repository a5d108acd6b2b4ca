"""One process of the soak: writes, reads and forwards as fast as it can, until the driver says otherwise.

Everybody is in everybody's ring. Handles travel as datagrams between unix sockets that are named after the members;
who has joined a ring, and under which id, is read from the ring's own table. So a message may be lost (the socket is
full, or its process dead: then its sender revokes), come twice, come after it was revoked, reach the successor of the
one it was meant for, or be opened once more long after.

What a tensor holds follows from the number in its message (contents.py). It is verified when it is opened and once
more when it is let go. A handle that is stale for the reader it was meant for is a loss, and reported like wrong
bytes, unless its message says that it may be, or its sender has died.

The driver's words on the pipe: "rings" names the living rings, "go" starts traffic, "hoard" lets nothing go any more;
these are not answered. "rest" stops traffic, "let go" takes in what is on its way and then drops everything, "account"
answers how many bytes of the own ring are still in use, "end" ends the process.
"""

import contextlib
import random
import select
import socket
import struct
import time
import traceback
from collections import deque
from multiprocessing.connection import Connection
from typing import NamedTuple

import torch

from shmtransport import (
    Endpoint,
    Handle,
    HandleError,
    Inline,
    Reader,
    Ring,
    RingFullError,
    SegmentError,
    SegmentNotFoundError,
    StaleHandleError,
    WaitTimeoutError,
    copying,
)
from tests.soak.contents import Payload, contents_of, fault_of, fill, make, raw_of

PAUSE_MS = 2
"""For a writer whose readers take nothing more."""
KEPT, HOARDED = 6, 500
"""Tensors that a member holds at most, ordinarily and when it hoards."""
REMEMBERED = 100
"""Messages that may be opened once more."""
TABLE_AGE_S = 0.02
"""For so long a look at who is in a ring is good; the dead among them are addressed meanwhile."""
LARGEST_DATAGRAM_NBYTES = 60_000
DEATH_S = 1.0
"""For a process that has begun to die, on a busy machine."""

# The number, the row it starts at, whether it may be stale, and the peer ids of sender and reader.
_HEAD = struct.Struct("<QIB16s16s")


class Plan(NamedTuple):
    """What a member is told when it is started."""

    name: str
    run: str
    seed: str
    writes: bool
    forwards: bool
    settings: dict[str, object]
    """For ``Ring.create``."""
    back_s: float
    """A ring that everybody has let go must be empty after this time; the settling threads look every 50 ms."""
    fault: str | None
    """What it is to do wrong, in the test of the soak (faults.py)."""


class Held(NamedTuple):
    """A tensor, its number, the row it starts at, and the ring it came from."""

    payload: Payload
    number: int
    start: int
    ring_id: str


def work(plan: Plan, pipe: Connection) -> None:
    """A member's whole life."""
    from tests.soak.faults import FAULTS  # which are members

    torch.set_num_threads(1)
    member = FAULTS[plan.fault](plan, pipe) if plan.fault else Member(plan, pipe)
    try:
        member.live()
    except EOFError:
        return  # the driver is gone
    except BaseException:  # noqa: BLE001 - told to the driver
        pipe.send(("failed", traceback.format_exc()))


def address_of(run: str, name: str) -> str:
    """Of a member's socket, in the abstract namespace: nothing to remove."""
    return f"\0shmtransport-soak-{run}-{name}"


class Member:
    """What a process of the soak has: perhaps a ring, places in all others, tensors, and a socket."""

    def __init__(self, plan: Plan, pipe: Connection) -> None:
        self.plan = plan
        self.pipe = pipe
        self.rng = random.Random(plan.seed)
        self.working = self.hoarding = False
        self.transfers = 0
        self.held: list[Held] = []
        self.heard: deque[bytes] = deque(maxlen=REMEMBERED)
        self.readers: dict[str, Reader] = {}
        self.tables: dict[str, tuple[float, dict[str, str]]] = {}
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.setblocking(False)
        self.socket.bind(address_of(plan.run, plan.name))
        self.ring: Ring | None = None

    def live(self) -> None:
        """Returns when the driver says "end"."""
        if self.plan.writes:
            kernel = str(copying.Choice(self.rng.choice(copying.machine().kernels), self.rng.choice((1, 1, 2))))
            self.ring = Ring.create(name=self.plan.name, copy_kernel=kernel, **self.plan.settings)  # type: ignore[arg-type]
        self.pipe.send(("ready", self.ring.id if self.ring else None))
        poller = select.poll()
        poller.register(self.socket, select.POLLIN)
        poller.register(self.pipe, select.POLLIN)
        while True:
            busy = self.working and self.write()
            ready = {descriptor for descriptor, _ in poller.poll(0 if busy else PAUSE_MS)}
            if self.pipe.fileno() in ready and not self.obey(*self.pipe.recv()):
                return
            if self.socket.fileno() in ready and self.working:
                self.read()

    def obey(self, word: str, argument: object = None) -> bool:
        """False at the end."""
        answer: object = None
        if word in ("go", "hoard"):
            self.working, self.hoarding = True, word == "hoard"
            return True
        if word == "rings":
            self.join(argument)  # type: ignore[arg-type]
            return True
        if word == "rest":
            self.working = self.hoarding = False
        elif word == "let go":
            while self.read():
                pass
            while self.held:
                self.drop()
            answer, self.transfers = self.transfers, 0
        elif word == "account":
            answer = self.account()
        elif word == "end":
            for endpoint in [*self.readers.values(), *([self.ring] if self.ring else [])]:
                endpoint.close()
        self.pipe.send((word, answer))
        return word != "end"

    # -- rings ------------------------------------------------------------------------------------------------

    def join(self, ring_ids: list[str]) -> None:
        """Joins those of ``ring_ids`` that it has not joined, and leaves all others, their tensors included."""
        for ring_id in self.readers.keys() - ring_ids:
            for position in reversed(range(len(self.held))):
                if self.held[position].ring_id == ring_id:
                    self.drop(position)
            self.readers.pop(ring_id).close()
        for ring_id in ring_ids:
            if ring_id not in self.readers and not (self.ring and self.ring.id == ring_id):
                with contextlib.suppress(SegmentNotFoundError):  # its writer has just been killed
                    try:
                        self.readers[ring_id] = Reader.join(ring_id, name=self.plan.name)
                    except SegmentError:  # in the middle of this very join; that is seen from its beginning
                        self.readers[ring_id] = Reader.join(ring_id, name=self.plan.name)

    def table(self, endpoint: Endpoint) -> dict[str, str]:
        """Who else is in a ring, name to peer id, as it was a moment ago."""
        seen, table = self.tables.get(endpoint.id, (0.0, {}))
        if time.monotonic() - seen > TABLE_AGE_S:
            table = {
                process.name: process.peer_id
                for process in endpoint.statistics().processes
                if process.alive and process.name != self.plan.name
            }
            self.tables[endpoint.id] = time.monotonic(), table
        return table

    def account(self) -> int:
        """Bytes of the own ring that are in use although everybody has let go."""
        deadline = time.monotonic() + self.plan.back_s
        while self.ring:
            self.ring.reap()
            used_nbytes = self.ring.attachment.core.room()[0]
            if used_nbytes == 0 or time.monotonic() > deadline:
                return used_nbytes
            time.sleep(0.0005)
        return 0

    # -- traffic ----------------------------------------------------------------------------------------------

    def write(self) -> bool:
        """Makes a tensor and sends it, or sends one again; False if it is better to wait for others."""
        if self.ring is None:
            return False
        own = [held for held in self.held if held.ring_id == self.ring.id]
        if own and self.rng.random() < 0.3:
            return self.send(self.ring, self.rng.choice(own))
        number = self.rng.getrandbits(64)
        try:
            payload = self.make(number)
        except (RingFullError, WaitTimeoutError):
            while self.held and not self.hoarding:
                self.drop()
            return False
        held = Held(payload, number, 0, self.ring.id)
        if self.rng.random() < 0.5 and self.ring.holds(payload):
            self.keep(held)
        return self.send(self.ring, held)

    def make(self, number: int) -> Payload:
        """In the ring by a copy, in the ring by filling it in place, or to be written by ``share``."""
        assert self.ring is not None
        contents = contents_of(number)
        way = self.rng.random()
        if way < 0.3 and contents.nbytes:
            payload = self.ring.empty(contents.shape, contents.dtype)
            fill(raw_of(payload), contents)
            return payload
        payload = make(contents)
        if way < 0.4 and isinstance(payload, torch.Tensor) and payload.ndim > 1 and payload.dtype != torch.bool:
            payload = payload.mT.contiguous().mT  # the same, not in C order; torch rewrites bools
        return self.ring.put(payload) if way < 0.8 else payload

    def send(self, endpoint: Endpoint, held: Held) -> bool:
        """To some of the others in that ring, at times twice, at times to be revoked; False if nobody took it."""
        table = self.table(endpoint)
        names = self.rng.sample(sorted(table), min(len(table), self.rng.choice((1, 1, 1, 2, 3))))
        if not names:
            return False
        payload, start = held.payload, held.start
        if payload.ndim and len(payload) > 1 and self.rng.random() < 0.1:
            first = self.rng.randrange(1, len(payload))
            payload, start = payload[first:], start + first
        try:
            sent = endpoint.share(payload, [table[name] for name in names])
        except (RingFullError, WaitTimeoutError):
            return False
        fate = self.rng.random()
        twice, revoked = fate < 0.05, 0.05 <= fate < 0.10
        sender, wire = bytes.fromhex(endpoint.peer_id), bytes(sent)
        taken = False
        for name in names:
            reader = bytes.fromhex(table[name])
            message = _HEAD.pack(held.number, start, twice or revoked, sender, reader) + wire
            arrived = self.deliver(name, message)
            if twice and arrived:
                self.deliver(name, message)
            if not arrived:
                endpoint.revoke(sent, table[name])
            taken |= arrived
        if revoked:
            endpoint.revoke(sent)
        return taken

    def deliver(self, name: str, message: bytes) -> bool:
        if len(message) > LARGEST_DATAGRAM_NBYTES:
            return False
        try:
            self.socket.sendto(message, address_of(self.plan.run, name))
        except (BlockingIOError, ConnectionRefusedError):  # it is full; it is dead
            return False
        return True

    def read(self) -> bool:
        """Opens one message, and at times an old one once more; False if there was none."""
        try:
            message = self.socket.recv(LARGEST_DATAGRAM_NBYTES)
        except BlockingIOError:
            return False
        self.open(message)
        self.heard.append(message)
        if self.rng.random() < 0.2:
            self.open(self.rng.choice(self.heard), again=True)
        return True

    def open(self, message: bytes, *, again: bool = False) -> None:
        """Verifies and keeps what a message brings; forwards it at times."""
        number, start, may_be_stale, sender, reader = _HEAD.unpack_from(message)
        wire = message[_HEAD.size :]
        ring_id = _ring_of(wire)
        endpoint = self.endpoint(ring_id)
        if endpoint is None:
            return  # meant for this one's predecessor, or of a ring that was left
        try:
            held = Held(endpoint.open(wire), number, start, ring_id)
        except StaleHandleError:
            if endpoint.peer_id == reader.hex() and not (may_be_stale or again) and _is_alive(endpoint, sender.hex()):
                self.pipe.send(("corrupted", f"lost: {Handle.from_bytes(wire)} was stale, and its sender lives"))
            return
        except SegmentError:
            if not _dies(endpoint):  # a dead writer hands no descriptors over
                raise
            return
        self.transfers += 1
        self.verify(held, "opened")
        if self.plan.forwards and self.working and held.ring_id in self.readers:
            self.send(self.readers[held.ring_id], held)
        self.keep(held)

    def endpoint(self, ring_id: str) -> Endpoint | None:
        """What opens handles of that ring here; for inline bytes (""), any."""
        if self.ring and ring_id in ("", self.ring.id):
            return self.ring
        return self.readers.get(ring_id) if ring_id else next(iter(self.readers.values()), None)

    def keep(self, held: Held) -> None:
        """For a while; what was held longer goes."""
        self.held.append(held)
        while len(self.held) > (HOARDED if self.hoarding else KEPT):
            self.drop(self.rng.randrange(len(self.held)))

    def drop(self, position: int = -1) -> None:
        """Lets one tensor go, after a last look at its bytes."""
        self.verify(self.held.pop(position), "let go")

    def verify(self, held: Held, when: str) -> None:
        if fault := fault_of(held.payload, held.number, held.start):
            what = f"tensor {held.number} from row {held.start} of ring {held.ring_id}"
            self.pipe.send(("corrupted", f"{what}, when {when}: {fault}"))


def _ring_of(wire: bytes) -> str:
    """The id of the ring of a handle; "" for inline bytes."""
    try:
        return Handle.from_bytes(wire).ring_id.hex()
    except HandleError:
        Inline.from_bytes(wire)
        return ""


def _is_alive(endpoint: Endpoint, peer_id: str) -> bool:
    return any(process.alive and process.peer_id == peer_id for process in endpoint.statistics().processes)


def _dies(endpoint: Endpoint) -> bool:
    """Whether the writer of a ring is dead or about to be: a killed process closes its sockets before its lock goes."""
    deadline = time.monotonic() + DEATH_S
    while (alive := endpoint.statistics().writer.alive) and time.monotonic() < deadline:
        time.sleep(0.001)
    return not alive
