"""This process's places in rings: one attachment a ring, found by ring id or by a tensor's address.

An attachment lives as long as a `Ring`, `Reader` or tensor needs it: leases keep the core's side of it alive
after the last Python reference has gone, open tickets too. Thread-safe. In a forked child the parent's
attachments are forgotten; the child creates and joins anew.
"""

import errno
import os
import threading
from multiprocessing import parent_process
from multiprocessing.util import Finalize
from weakref import WeakValueDictionary

from shmtransport import _core, host, segment
from shmtransport.config import SEGMENT_UNIT_NBYTES, RingConfig, round_up
from shmtransport.errors import ConfigError, LayoutError, SegmentError, SegmentNotFoundError
from shmtransport.layout import NAME_NBYTES, SEGMENTS, control_nbytes
from shmtransport.segment.backing import Backing
from shmtransport.segment.refusals import host_errors

# Each takes a name of its own, so that a sweep comes between more than once is as good as impossible.
_CREATE_ATTEMPTS = 8

_lock = threading.RLock()
_attachments: WeakValueDictionary[str, "Attachment"] = WeakValueDictionary()


def _forget() -> None:
    global _lock, _leaves_at_exit
    _lock = threading.RLock()
    _attachments.clear()
    _leaves_at_exit = False


os.register_at_fork(after_in_child=_forget)

_leaves_at_exit = False


def _leave_at_exit() -> None:
    """Children of multiprocessing end by os._exit(), which skips exit(3) and with it the core's own way out."""
    global _leaves_at_exit
    if parent_process() is not None and not _leaves_at_exit:
        Finalize(None, _core.leave_all, exitpriority=-1000)
        _leaves_at_exit = True


def new_peer_id() -> bytes:
    """128 random bits, the last byte never 0: the core marks a vacant row by a high half of 0."""
    return os.urandom(15) + bytes([0x80 | os.urandom(1)[0]])


def _label(name: str) -> str:
    return name.encode()[: NAME_NBYTES - 1].decode(errors="ignore")


class Attachment:
    """A place in one ring. Made by `create` and `join` only."""

    def __init__(
        self, ring_id: str, peer_id: bytes, core: _core.Attachment, backing: Backing, *, writable: bool
    ) -> None:
        self.ring_id = ring_id
        self.ring_id_bytes = bytes.fromhex(ring_id)
        self.peer_id = peer_id
        self.core = core
        self.backing = backing
        self.writable = writable
        self.index, _, self.entries, self.capacity_nbytes, self.segment_nbytes = core.facts()
        self._growth = threading.Lock()
        self._mapped: set[int] = set()
        self._unmappable = False
        self.unregistered: set[int] = set()
        """Segments that `cuda.register` has not seen since they were mapped here."""
        self.device_memories: list[object] = []
        """Memory of device pools that stays open while this place is in use (`device_tensors`)."""

    def grow(self, nbytes: int) -> bool:
        """Adds a segment with room for ``nbytes``; False if that would exceed the capacity, or somebody has taken the
        segment's name, as every user of /dev/shm can.

        Raises `OutOfSharedMemoryError` if the host has no room, `SegmentError` if it refuses the segment for
        another reason; the ring stays usable.
        """
        with self._growth, host_errors(f"grow ring {self.ring_id}"):
            segments = self.core.facts()[1]
            left = self.capacity_nbytes - sum(self.core.segment_nbytes(number) for number in range(segments))
            needed = round_up(nbytes, SEGMENT_UNIT_NBYTES)
            if needed > left or segments == SEGMENTS:
                return False
            size = max(needed, min(self.segment_nbytes, left))
            try:
                with self.backing.created(self.ring_id, segments + 1) as fd:
                    self.backing.reserve(fd, size)
                    self.core.add_segment(segments, fd, size, True)
                    self.unregistered.add(segments)
            except SegmentError as error:
                if error.errno != errno.EEXIST:
                    raise
                return False
            return True

    def map_ahead(self) -> None:
        """Maps what the writer has added, before a handle needs it. Raises what `map_segment` raises.

        With all of it mapped, what `map_segment` has told the senders is taken back.
        """
        for number in range(self.core.facts()[1]):
            if number not in self._mapped:
                self.map_segment(number)
        if self._unmappable:
            self._unmappable = False
            self.core.declare_unmappable(False)

    def map_segment(self, number: int) -> None:
        """Maps a segment that the writer has added since; read-only unless joined writable."""
        nbytes = self.core.segment_nbytes(number)
        try:
            with self.backing.opened(self.ring_id, number + 1) as fd:
                self.core.add_segment(number, fd, nbytes, self.writable)
                self._mapped.add(number)
                self.unregistered.add(number)
        except (OSError, MemoryError, LayoutError) as error:
            self._unmappable = True
            self.core.declare_unmappable(True)
            raise SegmentError(
                f"cannot map segment {number} of ring {self.ring_id}, served inline from now on: {error}"
            ) from error


def create(config: RingConfig) -> Attachment:
    """A new ring with this process as its writer and its first segment reserved and pre-faulted.

    Sweeps first what dead processes of this user left behind.
    """
    with host_errors("create a ring"):
        segment.sweep()
        _leave_at_exit()
        attachment = _create(config, segment.choose(config.backing, config.capacity_nbytes))
    with _lock:
        _attachments[attachment.ring_id] = attachment
    return attachment


def _create(config: RingConfig, backing: Backing) -> Attachment:
    """Takes another id where a sweep elsewhere took the name between its creation and our lock."""
    for _ in range(_CREATE_ATTEMPTS - 1):
        try:
            return _try_create(os.urandom(16).hex(), config, backing)
        except SegmentNotFoundError:
            continue
    return _try_create(os.urandom(16).hex(), config, backing)


def _try_create(ring_id: str, config: RingConfig, backing: Backing) -> Attachment:
    peer_id = new_peer_id()
    backing.check_free(control_nbytes(config.entries), config.segment_nbytes)
    with backing.created(ring_id, 0) as fd:
        try:
            core = _core.Attachment.create(
                fd,
                backing.prefix(ring_id),
                bytes.fromhex(ring_id),
                host.boot_id(),
                backing.CODE,
                config.entries,
                config.capacity_nbytes,
                config.segment_nbytes,
                peer_id,
                _label(config.name),
                os.getpid(),
                host.start_time(),
            )
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            raise backing.out_of_memory(control_nbytes(config.entries), error) from error
        attachment = Attachment(ring_id, peer_id, core, backing, writable=True)
        if not attachment.grow(1):
            raise SegmentError(f"cannot create ring {ring_id}: somebody has taken the name of its first segment")
        core.publish()
        backing.announce(ring_id, core.serve)
    return attachment


def join(ring_id: str, name: str, *, writable: bool) -> Attachment:
    """This process's attachment to a ring; a second join gets the first one's.

    The writer's own process gets the writer's. ``writable`` then stays what it was.
    """
    if not isinstance(ring_id, str) or len(ring_id) != 32 or not set(ring_id) <= set("0123456789abcdef"):
        raise ConfigError("ring_id", ring_id, "32 hexadecimal characters, as in Ring.id")
    with _lock:
        found = _attachments.get(ring_id)
        if found is not None:
            return found
        _leave_at_exit()
        backing = segment.backing_of(ring_id)
        if writable and backing.readers_only_read:
            raise ConfigError("writable", writable, f"False for a ring whose backing is {backing.NAME}: it is sealed")
        peer_id = new_peer_id()
        with host_errors(f"join ring {ring_id}"), backing.opened(ring_id, 0) as fd:
            core = _core.Attachment.join(
                fd, backing.prefix(ring_id), peer_id, _label(name), os.getpid(), host.start_time()
            )
        attachment = Attachment(ring_id, peer_id, core, backing, writable=writable)
        attachment.map_ahead()
        _attachments[ring_id] = attachment
        return attachment


def is_attached(ring_id: str) -> bool:
    """Whether this process has a ring or reader of it that is not closed. Tensors that outlive these do not count."""
    return ring_id in _attachments


def holder_of(address: int, nbytes: int) -> Attachment | None:
    """The attachment in whose ring ``nbytes`` at ``address`` lie under a lease of this process."""
    for reference in _attachments.valuerefs():
        attachment = reference()
        if attachment is not None and attachment.core.holds(address, nbytes):
            return attachment
    return None
