"""Two data-parallel replicas behind SGLang's own controller; and processes that are killed, one after the other."""

import os
from collections.abc import Iterator

import pytest

from shmtransport import sweep
from tests.processes.children import digest, pixels
from tests.sglang.world import World, world
from tests.support import segment_names, stop, wait_until

pytestmark = pytest.mark.timeout(150)


@pytest.fixture(scope="module")
def replicas(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("replicas"), ranks=1, replicas=2) as made:
        made.join()
        yield made


def test_a_request_goes_to_one_replica_and_comes_back_from_the_other_when_it_ends(replicas: World) -> None:
    assert replicas.send("a", "[pixels(1)]") == ["ShmPointerMMData"]
    rank = replicas.ranks[replicas.holder("a")]
    assert rank.ask("digest(rank.tensors('a')[0])") == digest(pixels(1))
    rank.run("rank.release('a')")
    assert replicas.used_nbytes() == 1 << 20, "the other replica could still open it"
    replicas.tokenizer.run("tokenizer.finish('a')")
    assert replicas.used_nbytes() == 0
    replicas.send("b", "[pixels(2)]")
    replicas.send("c", "[pixels(3)]")
    assert {replicas.holder("b"), replicas.holder("c")} == {0, 1}
    replicas.clear()
    assert replicas.used_nbytes() == 0


def test_killed_one_after_the_other_they_leave_nothing(replicas: World) -> None:
    """A rank that reads one request and has not opened another, then the tokenizer while the other rank reads. The
    last test here: nobody is left behind it."""
    tokenizer, names = replicas.tokenizer, segment_names()
    for rid in ("d", "e"):
        replicas.send(rid, "[pixels(4)]")
    victim, survivor = (replicas.ranks[replicas.holder(rid)] for rid in ("d", "e"))
    stop(victim.pid)
    replicas.send("f", "[pixels(5)]")  # its turn
    victim.kill()
    assert replicas.used_nbytes() == 3 << 20
    tokenizer.run("tokenizer.finish('d', 'f'); tokenizer.ring.reap()")
    assert replicas.used_nbytes() == 1 << 20, "what the other rank reads"

    tokenizer.run("request = tokenizer.request('g', [pixels(6)]); tokenizer.send(request)")
    assert tokenizer.ask("request.mm_inputs.mm_items[0].feature.handle is None"), "handles are for all ranks or none"
    wait_until(lambda: survivor.ask("'g' in rank.requests"))

    tokenizer.kill()
    assert survivor.ask("[digest(rank.tensors(rid)[0]) for rid in 'eg']") == [digest(pixels(4)), digest(pixels(6))]
    survivor.kill()
    sweep()  # as the next start does; memory there is none
    assert not segment_names() & names
    assert not [name for name in os.listdir("/dev/shm") if name.startswith("sgl_shm_mm")]
