"""The environment's settings, and that a switched-off plugin touches nothing."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from shmtransport.adapters.settings import Settings
from shmtransport.errors import ConfigError
from shmtransport.segment import room
from tests.support import run_python

GIB = 1 << 30


def test_the_defaults_need_no_thought() -> None:
    settings = Settings.from_environment({})
    assert settings == Settings(
        enabled=True, capacity_nbytes=None, segment_nbytes=512 << 20, threshold_nbytes=64 << 10, writable=False
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ENABLE", "maybe"),
        ("ENABLE", ""),
        ("CAPACITY", ""),
        ("CAPACITY", "lots"),
        ("CAPACITY", "-1"),
        ("CAPACITY", "1"),
        ("SEGMENT", "0"),
        ("THRESHOLD", "0"),
        ("WRITABLE", "2"),
        ("ON_FULL", "raise"),
        ("BACKING", "tmpfs"),
        ("RETURN", "maybe"),
        ("LOG_LEVEL", "loud"),
    ],
)
def test_a_wrong_setting_is_named(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"SHMTRANSPORT_{name}"):
        Settings.from_environment({f"SHMTRANSPORT_{name}": value})


def test_the_kill_switch_works_whatever_the_others_hold() -> None:
    assert not Settings.from_environment({"SHMTRANSPORT_ENABLE": "0", "SHMTRANSPORT_CAPACITY": "lots"}).enabled


@pytest.mark.parametrize(
    ("free_gib", "cache_gib", "frontends", "expected_gib", "backing"),
    [
        (100, 4.0, 1, 5, "posix"),
        (100, 0.0, 1, 1, "posix"),
        (8, 4.0, 1, 4, "memfd"),  # anonymous memory is not bound by /dev/shm
        (8, 4.0, 4, 1, "memfd"),
        (100, 4.0, 4, 5, "posix"),
    ],
)
def test_the_capacity_covers_the_cache_within_half_of_what_is_free(
    monkeypatch: pytest.MonkeyPatch, free_gib: int, cache_gib: float, frontends: int, expected_gib: float, backing: str
) -> None:
    monkeypatch.setattr(room, "filesystem_nbytes", lambda: free_gib * GIB)
    monkeypatch.setattr(room, "_within_cgroup", lambda *_: (free_gib * GIB, "here"))
    size = Settings.from_environment({}).input_ring(cache_gib, frontends)
    assert (size.capacity_nbytes, size.backing) == (expected_gib * GIB, backing)


def test_the_capacity_that_was_asked_for_is_taken() -> None:
    assert Settings.from_environment({"SHMTRANSPORT_CAPACITY": "3 GiB"}).input_ring(4.0, 9).capacity_nbytes == 3 * GIB


LOOK = """
import importlib, os, sys
MODULES = ("vllm.v1.engine.core_client", "vllm.v1.engine.core", "vllm.renderers.base", "vllm.v1.serial_utils",
           "vllm.distributed.device_communicators.shm_broadcast", "prometheus_client.multiprocess")
os.environ |= dict(pair.split("=") for pair in sys.argv[2:])

def objects():
    found = {}
    for name in MODULES:
        for key, value in vars(sys.modules[name]).items():
            found[name, key] = value
            if isinstance(value, type) and value.__module__ == name:
                found |= {(name, key, member): what for member, what in vars(value).items()}
    return found

from shmtransport.adapters.vllm import register
finders = list(sys.meta_path)
if sys.argv[1] == "before":
    register()
    assert (sys.meta_path == finders) == (len(sys.argv) > 2), sys.meta_path
for name in MODULES:
    importlib.import_module(name)
before = objects()
finders = list(sys.meta_path)
register()
assert sys.meta_path == finders
after = objects()
changed = sorted(".".join(key[1:]) for key in before.keys() | after.keys() if before.get(key) is not after.get(key))
wrapped = sorted(".".join(key[1:]) for key, what in after.items() if hasattr(what, "__wrapped__")
                 and getattr(what, "__code__", None) and "seams.py" in what.__code__.co_filename)
print(changed, wrapped, sep="\\n")
"""
WRAPPED = [
    "AsyncMPClient.__init__",
    "AsyncMPClient._send_input",
    "BaseRenderer._process_multimodal",
    "BaseRenderer._process_singleton",
    "BaseRenderer._process_singleton_async",
    "EngineCore.preprocess_add_request",
    "EngineCoreProc.process_input_sockets",
    "EngineCoreProc.process_output_sockets",
    "MPClient.shutdown",
    "MessageQueue.enqueue",
    "MsgpackEncoder.__init__",
    "MultiProcessCollector.__init__",
    "SyncMPClient.__init__",
    "SyncMPClient._send_input",
]
ADDED = [
    "EngineCore.shmtransport_ask_for_return_ring",
    "EngineCore.shmtransport_join",
    "EngineCore.shmtransport_joined_return_ring",
]
pytestmark = pytest.mark.timeout(200)


SWITCHED_OFF = [
    (when, setting)
    for setting in ("SHMTRANSPORT_ENABLE=0", "SHMTRANSPORT_CAPACITY=lots")
    for when in ("before", "after")
]
Looked = Callable[..., tuple[list[str], list[str], str]]


def changed_and_wrapped(when: str, *environment: str) -> tuple[list[str], list[str], str]:
    ended = run_python(LOOK, when, *environment, timeout_s=90.0)
    first, second = ended.stdout.splitlines()[-2:]
    return eval(first), eval(second), ended.stdout + ended.stderr


@pytest.fixture(scope="module")
def looked() -> Iterator[Looked]:
    """Answers `changed_and_wrapped`. Each look is one thread that imports vLLM: two go on at a time."""
    with ThreadPoolExecutor(2) as pool:
        looks = {look: pool.submit(changed_and_wrapped, *look) for look in [*SWITCHED_OFF, ("after",), ("before",)]}
        yield lambda *look: looks[look].result()


@pytest.mark.parametrize(("when", "setting"), SWITCHED_OFF)
def test_switched_off_or_set_wrongly_vllm_keeps_the_very_same_objects(looked: Looked, when: str, setting: str) -> None:
    changed, wrapped, log = looked(when, setting)
    assert changed == []
    assert wrapped == []
    assert ("shmtransport is off" in log) == (setting == "SHMTRANSPORT_CAPACITY=lots")


def test_switched_on_it_wraps_what_it_says_and_nothing_else(looked: Looked) -> None:
    changed, wrapped, log = looked("after")
    assert changed == sorted([*WRAPPED, *ADDED])
    assert wrapped == WRAPPED
    assert "shmtransport is off" not in log


def test_modules_that_vllm_imports_later_are_wrapped_then(looked: Looked) -> None:
    changed, wrapped, _ = looked("before")
    assert changed == []  # a second call changes nothing
    assert wrapped == WRAPPED
