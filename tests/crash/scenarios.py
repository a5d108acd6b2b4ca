"""What a process may be doing when it is killed.

A scenario prepares a victim and answers the statements under which it is to die, at its first passage of a kill
point, its second, and so on. With ``ends`` the victim's own end belongs to them.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from shmtransport import copying
from shmtransport.config import BACKINGS, BackingName
from tests.crash.world import BEHIND_THE_WIRE, World
from tests.processes.children import Child

Prepare: TypeAlias = Callable[[World, Child], str]


class Scenario(NamedTuple):
    """One operation of one role."""

    role: str
    prepare: Prepare
    ends: bool
    backings: tuple[BackingName, ...]

    def __str__(self) -> str:
        return f"{self.role}-{self.prepare.__name__}"


SCENARIOS: list[Scenario] = []


def scenario(
    role: str, *, ends: bool = False, backings: tuple[BackingName, ...] = BACKINGS
) -> Callable[[Prepare], Prepare]:
    def add(prepare: Prepare) -> Prepare:
        SCENARIOS.append(Scenario(role, prepare, ends, backings))
        return prepare

    return add


# -- a reader of a living writer's ring --------------------------------------------------------------------------


@scenario("reader")
def opens(world: World, victim: Child) -> str:
    victim.run("", wire=world.sent(world.joined(victim)))
    return "held = reader.open(wire)"


@scenario("reader")
def opens_twice_what_both_have(world: World, victim: Child) -> str:
    wire = world.sent(world.joined(victim), world.bystander_id)
    world.bystander.run("held.append(reader.open(wire))", wire=wire)
    victim.run("", wire=wire)
    return "held = [reader.open(wire), reader.open(wire)]\nheld.clear()"


@scenario("reader")
def opens_in_a_segment_not_mapped_yet(world: World, victim: Child) -> str:
    victim.run("shmtransport.attachment.Attachment.map_ahead = lambda self: None")
    victim.run("", wire=world.sent(world.joined(victim)))
    return "held = reader.open(wire)"


@scenario("reader")
def opens_in_a_segment_that_it_cannot_map(world: World, victim: Child) -> str:
    victim.run("shmtransport.attachment.Attachment.map_ahead = lambda self: None")
    victim.run("", wire=world.sent(world.joined(victim)))
    victim.run(
        "def opened(*arguments): raise SegmentError('as if no address space were left')\n"
        "type(reader.attachment.backing).opened = opened"
    )
    return "try: held = reader.open(wire)\nexcept SegmentError: pass\nelse: raise AssertionError"


@scenario("reader")
def opens_while_the_writer_waits(world: World, victim: Child) -> str:
    victim.run("", wire=world.sent(world.joined(victim)))
    world.put_that_waits()
    return "held = reader.open(wire)"


@scenario("reader")
def releases(world: World, victim: Child) -> str:
    world.opened(victim)
    return "held = None"


@scenario("reader")
def releases_while_the_writer_waits(world: World, victim: Child) -> str:
    world.opened(victim)
    world.put_that_waits()
    return "held = None"


@scenario("reader")
def refuses(world: World, victim: Child) -> str:
    victim.run("", wire=world.sent(world.joined(victim)))
    return "reader.refuse(Handle.from_bytes(wire))"


@scenario("reader")
def closes(world: World, victim: Child) -> str:
    world.joined(victim)
    return "reader.close()\ndel reader\ngc.collect()"


@scenario("reader")
def closes_with_a_tensor(world: World, victim: Child) -> str:
    world.opened(victim)
    return "reader.close()\ndel reader\ngc.collect()\nheld = None"


@scenario("reader", ends=True)
def ends_with_nothing(world: World, victim: Child) -> str:
    world.joined(victim)
    return ""


@scenario("reader", ends=True)
def ends_with_a_tensor(world: World, victim: Child) -> str:
    world.opened(victim)
    return ""


# -- a forwarder -------------------------------------------------------------------------------------------------


def delivers(sender: str, to: str) -> str:
    """Statements that share ``held`` and write the handle into the file ``path``, all of it or nothing."""
    return (
        f"wire = bytes({sender}.share(held, {to}))\n"
        f"with open(path + '.part', 'wb') as file: file.write(wire + {BEHIND_THE_WIRE!r} + digest(held).encode())\n"
        "os.rename(path + '.part', path)\n"
    )


@scenario("forwarder")
def forwards_and_lets_go(world: World, victim: Child) -> str:
    world.opened(victim)
    victim.run("", path=str(world.delivered), other=world.bystander_id)
    return delivers("reader", "other") + "held = None\nreader.attachment.core.settle()"


@scenario("forwarder")
def forwards_to_itself(world: World, victim: Child) -> str:
    world.opened(victim)
    return "again = reader.open(reader.share(held, reader))\nheld = again = None\nreader.attachment.core.settle()\n"


@scenario("forwarder")
def forwards_what_is_no_block(world: World, victim: Child) -> str:
    world.joined(victim)
    return f"inline = reader.share(torch.ones(9), {world.bystander_id!r})"


@scenario("forwarder")
def revokes(world: World, victim: Child) -> str:
    world.opened(victim)
    victim.run("handle = reader.share(held, other); held = None", other=world.bystander_id)
    return "assert reader.revoke(handle)"


@scenario("forwarder")
def closes_with_a_handle_under_way(world: World, victim: Child) -> str:
    """To itself, whose epoch the close raises: it settles by that."""
    world.opened(victim)
    victim.run("handle = reader.share(held, reader); held = None")
    return "reader.close()\ndel reader\ngc.collect()"


# -- a reaper, and a new tenant ----------------------------------------------------------------------------------


@scenario("reaper")
def reaps(world: World, victim: Child) -> str:
    world.joined(victim)
    world.dead_reader()
    return "assert reader.reap() == 1"


@scenario("new tenant")
def joins(world: World, victim: Child) -> str:
    world.dead_reader()
    victim.run("", ring_id=world.ring.id)
    return "reader = Reader.join(ring_id)"


@scenario("new tenant", backings=("posix",))  # of a memfd ring there is nothing then
def joins_when_the_writer_is_dead(world: World, victim: Child) -> str:
    victim.run("", ring_id=orphan(world))
    return "try: Reader.join(ring_id)\nexcept SegmentNotFoundError: pass"


def orphan(world: World) -> str:
    """The id of a ring of which there are only names."""
    dead = world.child()
    dead.run("ring = Ring.create('64KiB', entries=8, copy_kernel='libc')")
    ring_id: str = dead.ask("ring.id")
    dead.kill()
    return ring_id


# -- a writer ----------------------------------------------------------------------------------------------------


@scenario("writer")
def creates(world: World, victim: Child) -> str:
    return "ring = Ring.create('1MiB', segment='256KiB', entries=8, copy_kernel='libc')"


@scenario("writer", backings=("memfd",))
def hands_a_segment_over(world: World, victim: Child) -> str:
    """To itself: its thread does not know the difference."""
    world.join_ring_of(victim)
    return "with shmtransport.segment.BY_NAME['memfd'].opened(ring.id, 0): pass"


@scenario("writer")
def puts(world: World, victim: Child) -> str:
    world.join_ring_of(victim, kernel=kernel(1))
    return "more = ring.put(pixels(3, 1 << 20))"


@scenario("writer")
def puts_with_two_threads(world: World, victim: Child) -> str:
    world.join_ring_of(victim, kernel=kernel(2))
    victim.run("source = pixels(3, 1 << 20)")
    return "more = ring.put(source)"


def kernel(threads: int) -> str:
    """With non-temporal stores, if this machine has them."""
    machine = copying.machine()
    name = "avx2-nt" if "avx2-nt" in machine.kernels else "libc"
    return f"{name}:{min(threads, machine.threads)}"


@scenario("writer")
def puts_into_a_new_segment(world: World, victim: Child) -> str:
    world.join_ring_of(victim)
    victim.run("first = ring.put(pixels(3, 1 << 20))")
    return "more = ring.put(pixels(4, 1 << 20))"


@scenario("writer")
def puts_when_there_is_no_room(world: World, victim: Child) -> str:
    world.join_ring_of(victim)
    victim.run("import dataclasses; ring._config = dataclasses.replace(ring._config, on_full='block', timeout_s=0.06)")
    return "try: more = ring.put(pixels(3, 4 << 20))\nexcept WaitTimeoutError: pass"


@scenario("writer")
def shares(world: World, victim: Child) -> str:
    world.join_ring_of(victim)
    victim.run("", path=str(world.delivered))
    return delivers("ring", "ids") + "held = None"


@scenario("writer")
def lets_go(world: World, victim: Child) -> str:
    world.join_ring_of(victim)
    victim.run("alone = ring.put(pixels(3, 1 << 10))")
    return "alone = None\nheld = None\nring.attachment.core.settle()"


@scenario("writer")
def takes_back(world: World, victim: Child) -> str:
    world.join_ring_of(victim)
    return "assert ring.revoke(unopened)"


@scenario("writer")
def closes_among_readers(world: World, victim: Child) -> str:
    world.join_ring_of(victim)
    return "ring.revoke(unopened)\nring.close()\ndel ring\ngc.collect()\nheld = None"


@scenario("writer")
def closes_alone(world: World, victim: Child) -> str:
    victim.run("ring = Ring.create('1MiB', segment='256KiB', entries=8, copy_kernel='libc')")
    victim.run("held = [ring.put(pixels(seed, 200 << 10)) for seed in range(3)]")
    return "ring.close()\ndel ring\ngc.collect()\nheld.clear()"


@scenario("writer", ends=True)
def ends_alone(world: World, victim: Child) -> str:
    victim.run("ring = Ring.create('64KiB', entries=8, copy_kernel='libc'); held = ring.put(pixels(1, 1 << 10))")
    return ""


@scenario("writer", ends=True)
def ends_among_readers(world: World, victim: Child) -> str:
    world.join_ring_of(victim)
    return ""


@scenario("writer")
def reaps_a_reader(world: World, victim: Child) -> str:
    world.join_ring_of(victim)
    dead = world.child()
    dead.run("reader = Reader.join(ring_id)", ring_id=victim.ask("ring.id"))
    wire = victim.ask("bytes(ring.share(held, peer_id))", peer_id=dead.ask("reader.peer_id"))
    dead.run("held = reader.open(wire)", wire=wire)
    dead.kill()
    return "assert ring.reap() == 1"


# -- who removes names -------------------------------------------------------------------------------------------


@scenario("last one out")
def closes_a_dead_writers_ring(world: World, victim: Child) -> str:
    dead = world.child()
    dead.run("ring = Ring.create('64KiB', entries=8, copy_kernel='libc')")
    victim.run("reader = Reader.join(ring_id)", ring_id=dead.ask("ring.id"))
    dead.kill()
    return "reader.close()\ndel reader\ngc.collect()"


@scenario("sweeper")
def sweeps(world: World, victim: Child) -> str:
    orphan(world)
    return "shmtransport.sweep()"


@scenario("sweeper", backings=("posix",))
def sweeps_names_without_a_control_name(world: World, victim: Child) -> str:
    ring_id = orphan(world)
    victim.run("os.unlink(f'/dev/shm/shmt-{os.geteuid()}-{ring_id}-0')", ring_id=ring_id)
    return "shmtransport.sweep()"
