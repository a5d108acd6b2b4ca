"""The driver's side of the soak: members are started, killed, paused, spoken to, and listened to with a deadline."""

import contextlib
import ctypes
import gc
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait

from tests.soak.member import Plan, work

PR_SET_PDEATHSIG = 1  # prctl(2)
_libc = ctypes.CDLL(None)


@dataclass
class Findings:
    """What the soak counts; each thing that it finds wrong is printed as well, with the place that leads back to it."""

    rounds: int = 0
    kills: int = 0
    transfers: int = 0
    corrupted: int = 0
    hung: int = 0
    leaked_nbytes: int = 0

    place = ""

    def tell(self, what: str) -> None:
        print(f"{self.place}: {what}", file=sys.stderr, flush=True)


@dataclass
class Living:
    """A member that was started and has not been seen to end."""

    pid: int
    pidfd: int
    pipe: Connection
    ring_id: str | None = None
    ready: bool = False
    paused: bool = False
    answer: tuple[str, object] | None = None
    _status: int | None = None

    def wait(self, timeout_s: float) -> int | None:
        """Exit status, negative for a signal; None if it still runs. Called again, it answers the last one's."""
        if select.select([self.pidfd], [], [], timeout_s)[0] and self._status is None:
            self._status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self._status


class World:
    """Members by name: forks of this process, which has imported everything and has neither a ring nor a thread.

    Who ends by itself or does not answer within ``deadline_s`` is counted as hung, and killed. ``plan_of`` says what
    a member is to do, given its name and how often it was started before. While `working`, a member that has come up
    is told the rings and joins the others at work.
    """

    def __init__(
        self, names: Sequence[str], plan_of: Callable[[str, int], Plan], findings: Findings, deadline_s: float
    ) -> None:
        self.names = names
        self.working = False
        self._plan_of = plan_of
        self._findings = findings
        self._deadline_s = deadline_s
        self._starts = dict.fromkeys(names, 0)
        self._living: dict[str, Living] = {}
        self._dying: dict[str, Living] = {}
        gc.collect()
        gc.freeze()  # what is here is not touched, and so not copied, by the members' collections

    def start(self, name: str) -> None:
        """Returns at once; the member creates its ring in its own time. Its predecessor is buried first."""
        if name in self._dying:
            self._bury(self._dying.pop(name), name)
        here, there = Pipe()
        plan = self._plan_of(name, self._starts[name])
        self._starts[name] += 1
        pid = os.fork()
        if pid == 0:
            _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # a paused one would not hear that the pipe has ended
            here.close()
            work(plan, there)
            os._exit(0)
        there.close()
        self._living[name] = Living(pid, os.pidfd_open(pid), here)

    def start_the_dead(self) -> None:
        for name in self.names:
            if name not in self._living:
                self.start(name)

    def kill(self, name: str) -> None:
        """SIGKILL, which it dies of in its own time, and then it is a zombie until its successor is started."""
        if name in self._living:
            self._findings.kills += 1
            self._dying[name] = self._living.pop(name)
            os.kill(self._dying[name].pid, signal.SIGKILL)

    def pause(self, name: str) -> None:
        """SIGSTOP."""
        if name in self._living:
            self._living[name].paused = True
            os.kill(self._living[name].pid, signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT to all who are paused."""
        for living in self._living.values():
            if living.paused:
                living.paused = False
                os.kill(living.pid, signal.SIGCONT)

    def pids(self) -> dict[str, int]:
        """Of the living, by name."""
        return {name: living.pid for name, living in self._living.items()}

    def ring_ids(self) -> list[str]:
        """Of the living writers."""
        return [living.ring_id for living in self._living.values() if living.ring_id is not None]

    def tell(self, word: str, name: str | None = None) -> None:
        """A word that is not answered, to one member or to all."""
        for each in [name] if name else list(self._living):
            if each in self._living:
                self._send(each, word)

    def ask(self, word: str) -> dict[str, object]:
        """What all answer."""
        for living in self._living.values():
            living.answer = None
        self.tell(word)
        self._wait_for(word, lambda living: living.answer is not None and living.answer[0] == word)
        return {name: living.answer[1] for name, living in self._living.items() if living.answer}

    def listen(self, seconds: float) -> None:
        """Lets the members work for that long."""
        deadline = time.monotonic() + seconds
        while (left_s := deadline - time.monotonic()) > 0:
            self._hear(left_s)

    def end(self) -> None:
        """Everybody leaves in peace."""
        self.ask("end")
        for name, living in list(self._living.items()):
            status = living.wait(self._deadline_s)
            if status == 0:
                self._bury(self._living.pop(name), name)
            else:
                self._give_up(name, f"did not end in peace: exit status {status}")

    def kill_all(self) -> None:
        """For an end with an error: no member outlives the driver."""
        for name, living in [*self._living.items(), *self._dying.items()]:
            self._bury(living, name)
        self._living, self._dying = {}, {}

    def _wait_for(self, what: str, come: Callable[[Living], bool]) -> None:
        deadline = time.monotonic() + self._deadline_s
        while late := [name for name, living in self._living.items() if not come(living)]:
            if time.monotonic() > deadline:
                for name in late:
                    self._give_up(name, f"no answer to {what!r} in {self._deadline_s} s")
                return
            self._hear(0.1)

    def _send(self, name: str, word: str) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the end is heard when it is read
            self._living[name].pipe.send((word, self.ring_ids()) if word == "rings" else (word,))

    def _hear(self, timeout_s: float) -> None:
        gone = {name for name, living in self._living.items() if living.answer and living.answer[0] == "end"}
        by_pipe = {living.pipe: name for name, living in self._living.items() if name not in gone}
        for pipe in wait(list(by_pipe), timeout_s):
            assert isinstance(pipe, Connection)
            try:
                self._take(by_pipe[pipe], *pipe.recv())
            except (EOFError, ConnectionResetError):
                self._give_up(by_pipe[pipe], "ended by itself")

    def _take(self, name: str, word: str, answer: object) -> None:
        living = self._living[name]
        if word == "corrupted":
            self._findings.corrupted += 1
            self._findings.tell(f"{name}: {answer}")
        elif word == "failed":
            self._findings.tell(f"{name}: {answer}")
        elif word == "ready":
            assert answer is None or isinstance(answer, str)
            living.ready, living.ring_id = True, answer
            if self.working:
                self.tell("rings")
                self.tell("go", name)
        else:
            living.answer = (word, answer)

    def _give_up(self, name: str, why: str) -> None:
        self._findings.hung += 1
        self._findings.tell(f"{name} {why}")
        self._bury(self._living.pop(name), name)

    def _bury(self, living: Living, name: str) -> None:
        """Hears its last words."""
        if living.wait(0) is None:
            os.kill(living.pid, signal.SIGKILL)
            living.wait(self._deadline_s)
        with contextlib.suppress(EOFError, ConnectionResetError):
            while living.pipe.poll():
                word, answer = living.pipe.recv()
                if word in ("corrupted", "failed"):
                    self._findings.corrupted += word == "corrupted"
                    self._findings.tell(f"{name}: {answer}")
        living.pipe.close()
        os.close(living.pidfd)
