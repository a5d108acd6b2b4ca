"""No Python of this package waits without a deadline; tests/meta/test_waiting_in_c.py says the same of the core.

A call to one of `BLOCKING` must pass a timeout, or ask not to wait, or stand in an ``asyncio.timeout`` block. Locks
have no deadline: they are right as long as nobody waits while holding one. What is right for another reason is listed
here by name, with the reason; a line that is not needed any more is a failure too.
"""

import ast
import re
from collections.abc import Iterator

import pytest

from tests.support import ROOT

# Names of functions and methods that may wait, and which positional argument is a timeout; 0: none is.
BLOCKING = {
    "wait": 1, "poll": 1, "acquire": 2, "join": 1, "get": 2, "result": 1, "exception": 1, "select": 4, "wait_for": 2,
    "recv": 0, "recv_into": 0, "recv_bytes": 0, "recv_fds": 0, "recv_multipart": 0, "send_multipart": 0, "sendall": 0,
    "accept": 0, "communicate": 2, "shutdown": 0, "shield": 0, "run_in_executor": 0, "to_thread": 0,
    "collective_rpc": 2, "flock": 0, "lockf": 0, "waitpid": 0, "check_call": 0, "check_output": 0, "urlopen": 3,
    "create_connection": 2,
}  # fmt: skip
# With arguments these are something else: ", ".join(names), mapping.get(key), os.path.join(...).
ONLY_WITHOUT_ARGUMENTS = {"join", "get", "result", "exception", "acquire"}
TIMEOUTS = {"timeout", "timeout_s"}
DOES_NOT_WAIT = re.compile(r"NOBLOCK|DONTWAIT|WNOHANG|LOCK_NB|blocking=False|wait=False")
LOCK_TYPES = re.compile(r"(threading|asyncio)\.(R?Lock|Condition|Semaphore|BoundedSemaphore)\(")

_UNDER_DEADLINE = "under the asyncio.timeout of send, recv or join, which are its only callers"
_DONE = "called back when it is done"
_ASKED = "asked only when it is done"
_OF_THE_RING = "for a put, which has the deadline of its ring, or a join"
_DEMO = "its sockets have SNDTIMEO and RCVTIMEO (demo/sockets.py)"
ARGUED = {
    "asyncio.py Channel._encode asyncio.get_running_loop().run_in_executor": _UNDER_DEADLINE,
    "asyncio.py Channel._encode asyncio.shield": _UNDER_DEADLINE,
    "asyncio.py Channel._hear asyncio.get_running_loop().run_in_executor": _UNDER_DEADLINE,
    "asyncio.py Channel._hear_one self._socket.poll": _UNDER_DEADLINE,
    "asyncio.py Channel._hear asyncio.shield": _UNDER_DEADLINE,
    "asyncio.py Channel._receive receiving.exception": _ASKED,
    "asyncio.py Channel._receive receiving.result": _ASKED,
    "asyncio.py Channel._receive self._socket.recv_multipart": _UNDER_DEADLINE,
    "asyncio.py Channel._send_frames self._socket.send_multipart": _UNDER_DEADLINE,
    "asyncio.py Channel.__aexit__ asyncio.to_thread": _OF_THE_RING,
    "asyncio.py Channel.close self._thread.shutdown": _OF_THE_RING,
    "asyncio.py _revoke_all encoding.exception": _DONE,
    "asyncio.py _revoke_all encoding.result": _DONE,
    "segment/memfd.py _asked client.sendall": "settimeout with what is left of DEADLINE_S",
    "segment/memfd.py _asked socket.recv_fds": "settimeout with what is left of DEADLINE_S",
    "adapters/sglang/sending.py modules.send asyncio.to_thread": "for a copy; BLOCK_TIMEOUT_S bounds the put",
    "adapters/sglang/sending.py modules.wrap Sending.now.get": "ContextVar.get never waits",
    "adapters/vllm/forwarding.py Workers.introduce executor.collective_rpc": "vLLM's; a later answer would be taken "
    "for the next call's. Its workers answer, or vLLM ends them and itself",
    "adapters/vllm/frontend.py modules.process_later asyncio.to_thread": "for a copy; BLOCK_TIMEOUT_S bounds the put",
    "adapters/vllm/link.py Link._join_async asyncio.to_thread": "for the creation of a ring",
    "adapters/vllm/link.py Link._join_async asyncio.wait": "for a call in asyncio.wait_for with JOIN_TIMEOUT_S",
    "adapters/vllm/link.py Link._settle result.exception": _DONE,
    "adapters/vllm/link.py Link.joined answer.exception": _DONE,
    "adapters/vllm/link.py Link.joined answer.result": _DONE,
    "adapters/vllm/returning.py Returns._answered answer.exception": _DONE,
    "adapters/vllm/returning.py Returns._answered answer.result": _DONE,
    "adapters/vllm/returning.py _forget answer.exception": _DONE,
    "device_tensors.py open_tensor block.event.wait": "the device's stream waits, not the thread",
    "demo/engine.py serve poller.poll": "for its frontend to speak or to end, which a pipe tells of",
    "demo/engine_process.py EngineProcess.__exit__ self._process.wait": "for a process that was killed",
    "demo/engine_process.py EngineProcess.receipt self._process.poll": "Popen.poll never waits",
    "demo/engine_process.py EngineProcess.receipt self._receipts.recv": _DEMO,
    "demo/transports.py Multipart.send self.socket.send_multipart": _DEMO,
    "demo_vllm/processes.py _end process.poll": "Popen.poll never waits",
    "demo_vllm/processes.py _end process.wait": "for a process that was killed",
    "demo_vllm/processes.py run_module process.poll": "Popen.poll never waits",
    "demo_vllm/recorder.py _Counted.send_multipart self._inner.send_multipart": "passes on what vLLM asks for",
}
LOCKS = {
    "attachment.py _lock": "a join: opens, locks and maps files, and answers busy instead of waiting",
    "attachment.py self._growth": "a growth: creates and reserves a segment",
    "device_pool.py self.lock": "a block's record, which has the deadline of its ring",
    "device_tensors.py _lock": "looks at a dict, or opens a pool's memory, once a process",
    "cuda.py _lock": "only tried: whoever does not get it goes on without",
    "asyncio.py self._receiving": _UNDER_DEADLINE,
    "adapters/ahead.py self._lock": "looks at a set",
    "adapters/sglang/receiving.py self._lock": "joins a ring, once",
    "adapters/sglang/sending.py self._lock": "looks at a dict",
    "adapters/vllm/core.py making": "makes an object, once an engine",
    "adapters/vllm/link.py self._opening": "creates a ring, once a client",
    "adapters/vllm/returning.py self._lock": "looks at a dict, or creates a ring, once a process",
    "adapters/rings.py self._lock": "looks at a dict, or joins a ring",
    "adapters/vllm/seams.py self._lock": "puts wrappers in place, once a process",
    "adapters/vllm/sending.py self._lock": "creates a ring, once a process",
    "adapters/vllm/worker.py _lock": "makes an object, once a process",
}


def waits_of(path: str, text: str) -> Iterator[tuple[str, int]]:
    """File, function and name of each call that may wait without a deadline; with a lock held it counts twice."""
    tree = ast.parse(text)
    locks = set(locks_of(text))

    def walk(node: ast.AST, inside: list[str], bounded: bool, held: str) -> Iterator[tuple[str, int]]:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                inside, bounded, held = [*inside, node.name], False, ""
            case ast.With() | ast.AsyncWith():
                entered = [ast.unparse(item.context_expr) for item in node.items]
                bounded = bounded or any(each.startswith("asyncio.timeout") for each in entered)
                held = next((each for each in entered if each in locks), held)
            case ast.Call():
                waits = _waits(node)
                place = f"{path} {'.'.join(inside)} {ast.unparse(node.func)}"
                if waits and not bounded and not _has_deadline(node):
                    yield place, node.lineno
                if waits and held:
                    yield f"{place} while it holds {held}", node.lineno
        for child in ast.iter_child_nodes(node):
            yield from walk(child, inside, bounded, held)

    yield from walk(tree, [], False, "")


def _waits(call: ast.Call) -> bool:
    name = ast.unparse(call.func).rpartition(".")[2]
    return name in BLOCKING and not (name in ONLY_WITHOUT_ARGUMENTS and call.args)


def _has_deadline(call: ast.Call) -> bool:
    place = 0 if ast.unparse(call.func) == "asyncio.wait" else BLOCKING[ast.unparse(call.func).rpartition(".")[2]]
    given = [keyword.value for keyword in call.keywords if keyword.arg in TIMEOUTS] + call.args[place - 1 : place]
    for_ever = [value for value in given if isinstance(value, ast.Constant) and value.value is None]
    return (bool(given) and not for_ever) or DOES_NOT_WAIT.search(ast.unparse(call)) is not None


def locks_of(text: str) -> Iterator[str]:
    """Names that a file gives to locks."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Assign) and LOCK_TYPES.match(ast.unparse(node.value)):
            yield from map(ast.unparse, node.targets)


def sources() -> dict[str, str]:
    package = ROOT / "shmtransport"
    return {str(path.relative_to(package)): path.read_text() for path in sorted(package.rglob("*.py"))}


def test_whatever_may_wait_has_a_deadline() -> None:
    found = dict(each for path, text in sources().items() for each in waits_of(path, text))
    unbounded = [f"{place}, line {line}" for place, line in found.items() if place not in ARGUED | _asyncio_lock()]
    assert unbounded == []


def test_every_argued_exception_is_still_one() -> None:
    found = {place for path, text in sources().items() for place, _ in waits_of(path, text)}
    assert set(ARGUED) - found == set()


def _asyncio_lock() -> dict[str, str]:
    """The one lock that is held while its holder waits: asyncio's, and every taker has a deadline."""
    reading = "asyncio.py Channel._hear_one"
    return {
        f"{reading} self._socket.{method} while it holds self._receiving": _UNDER_DEADLINE
        for method in ("poll", "recv_multipart")
    }


def test_every_lock_is_known() -> None:
    found = {f"{path} {lock}" for path, text in sources().items() for lock in locks_of(text)}
    assert found == set(LOCKS)


@pytest.mark.parametrize(
    "line",
    [
        "socket.recv()",
        "event.wait()",
        "event.wait(None)",
        "event.wait(timeout=None)",
        "thread.join()",
        "queue.get()",
        "future.result()",
        "lock.acquire()",
        "process.communicate(b'')",
        "poller.poll()",
        "fcntl.flock(fd, fcntl.LOCK_EX)",
        "os.waitpid(pid, 0)",
        "asyncio.wait([answer])",
        "executor.shutdown()",
    ],
)
def test_a_wait_without_a_deadline_is_found(line: str) -> None:
    assert [place for place, _ in waits_of("a.py", f"class A:\n  def f(self):\n    {line}")] == [
        f"a.py A.f {line.partition('(')[0]}"
    ]


@pytest.mark.parametrize(
    "line",
    [
        "socket.recv(zmq.NOBLOCK)",
        "channel.recv(timeout_s=5)",
        "event.wait(0.5)",
        "event.wait(timeout=left_s)",
        "thread.join(10)",
        "', '.join(names)",
        "names.get(key)",
        "asyncio.wait([answer], timeout=5)",
        "async with asyncio.timeout(5):\n      await socket.recv()",
        "process.communicate(timeout=10)",
        "os.waitpid(pid, os.WNOHANG)",
    ],
)
def test_a_wait_with_a_deadline_is_allowed(line: str) -> None:
    assert list(waits_of("a.py", f"async def f(self):\n    {line}")) == []


def test_a_wait_under_a_lock_is_found_even_with_a_deadline() -> None:
    text = "made = threading.Lock()\ndef f():\n  with made:\n    event.wait(5)"
    assert list(waits_of("a.py", text)) == [("a.py f event.wait while it holds made", 4)]
