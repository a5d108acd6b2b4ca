"""Real SGLang's tokenizer and two ranks over its own broadcast: same bytes, one write, and leases that come back."""

import pytest

from tests.processes.children import digest, pixels
from tests.sglang.world import World

pytestmark = pytest.mark.timeout(150)  # the first test waits for three imports of SGLang
WIRE = (
    "import pickle; from sglang.srt.managers.io_struct import msgpack_decode, msgpack_encode; "
    "WIRE = {'pickle': (pickle.dumps, pickle.loads), 'msgpack': (msgpack_encode, msgpack_decode)}"
)


def writes(two: World) -> int:
    count: int = two.tokenizer.ask("tokenizer.ring.statistics().writer.writes")
    return count


def test_both_ranks_read_the_same_bytes_from_one_write(two: World) -> None:
    before = writes(two)
    assert two.send("a", "[pixels(1, 10 << 20)]") == ["ShmPointerMMData"]
    two.await_request("a")
    assert two.digests("a") == [[digest(pixels(1, 10 << 20))]] * 2
    assert writes(two) == before + 1
    assert [rank.ask("rank.tensors('a')[0].data_ptr() % 4096") for rank in two.ranks] == [0, 0]
    two.release("a")
    assert two.used_nbytes() == 0


def test_nothing_of_sglangs_own_is_made(two: World) -> None:
    names = "sorted(name for name in os.listdir('/dev/shm') if name.startswith('sgl_shm_mm'))"
    assert two.send("own", "[pixels(1)]") == ["ShmPointerMMData"]
    assert two.tokenizer.ask(names) == []
    two.await_request("own")


@pytest.mark.parametrize(
    "features",
    [
        "[pixels(2), pixels(3)]",
        "[[pixels(4), pixels(5, 2048)]]",
        "[(pixels(6), pixels(7))]",
        "[pixels(8).to(torch.bfloat16)]",
        "[pixels(9).T]",
        "[torch.zeros(1 << 20, dtype=torch.uint8)]",
    ],
)
def test_whatever_shape_a_request_has_its_bytes_arrive(two: World, features: str) -> None:
    two.send("b", features)
    two.await_request("b")
    flat = (
        f"[digest(each) for value in {features} for each in (value if isinstance(value, (list, tuple)) else [value])]"
    )
    assert two.digests("b") == [two.tokenizer.ask(flat)] * 2
    assert two.used_nbytes() > 0


def test_embeddings_go_by_handle_too(two: World) -> None:
    two.tokenizer.run(
        "request = tokenizer.request('e', [None], precomputed_embeddings=pixels(10)); tokenizer.send(request)"
    )
    two.await_request("e")
    assert two.digests("e") == [[digest(pixels(10))]] * 2
    assert two.tokenizer.ask("request.mm_inputs.mm_items[0].precomputed_embeddings.handle is not None")


def test_small_tensors_stay_in_the_message(two: World) -> None:
    before = writes(two)
    assert two.send("s", "[pixels(11, 4096)]") == ["Tensor"]
    two.await_request("s")
    assert two.digests("s") == [[digest(pixels(11, 4096))]] * 2
    assert writes(two) == before


def test_samples_of_one_request_share_one_block(two: World) -> None:
    before = writes(two)
    two.tokenizer.run("kept = pixels(12); tokenizer.send_samples('n', kept, 4)")
    for number in range(5):
        two.await_request(f"n.{number}")
        assert two.digests(f"n.{number}") == [[digest(pixels(12))]] * 2
    assert writes(two) == before + 1
    assert two.used_nbytes() == 1 << 20
    two.tokenizer.run("del kept")


def test_a_tensor_that_changed_between_samples_is_written_again(two: World) -> None:
    two.tokenizer.run("kept = pixels(13); tokenizer.send(tokenizer.request('c', [kept])); kept.zero_()")
    two.tokenizer.run("tokenizer.send(tokenizer.request('d', [kept])); del kept")
    two.await_request("d")
    zeros = pixels(13).zero_()
    assert (two.digests("c"), two.digests("d")) == ([[digest(pixels(13))]] * 2, [[digest(zeros)]] * 2)


def test_an_aborted_request_gives_its_block_back(two: World) -> None:
    two.send("abort", "[pixels(14)]")
    two.await_request("abort")
    two.tokenizer.run("tokenizer.abort('abort')")
    for rank in two.ranks:
        rank.run("while 'abort' not in rank.aborted: time.sleep(0.001)")
    assert two.used_nbytes() == 0


def test_a_send_that_fails_takes_its_handles_back(two: World) -> None:
    two.tokenizer.run("failing = tokenizer.request('f', [pixels(15)])")
    assert "Socket operation" in two.tokenizer.ask("tokenizer.fail_to_send(failing)")
    two.tokenizer.run("del failing; gc.collect()")
    assert two.used_nbytes() == 0


def test_the_copy_is_not_on_the_event_loop(two: World) -> None:
    two.tokenizer.run(
        """
put, threads = Ring.put, []
def watched(ring, tensor):
    threads.append(threading.current_thread() is threading.main_thread())
    return put(ring, tensor)
Ring.put = watched
try:
    tokenizer.send(tokenizer.request('loop', [pixels(16)]))
finally:
    Ring.put = put
"""
    )
    assert two.tokenizer.ask("threads") == [False]
    two.await_request("loop")


def test_what_finds_no_room_goes_sglangs_own_way(two: World) -> None:
    two.tokenizer.run("full = tokenizer.request('full', [pixels(17, 100 << 20)]); tokenizer.send(full)")
    assert two.tokenizer.ask("full.mm_inputs.mm_items[0].feature.handle is None")
    two.await_request("full")
    assert two.digests("full") == [[digest(pixels(17, 100 << 20))]] * 2


def test_a_request_of_a_tokenizer_without_the_plugin_arrives(two: World) -> None:
    """Those of several tokenizers have none: SGLang does not load plugins there."""
    two.tokenizer.run(
        "from sglang.srt.managers.mm_utils import ShmPointerMMData\n"
        "pointer = ShmPointerMMData.__new__(ShmPointerMMData); pointer.__setstate__(state)\n"
        "tokenizer.send(tokenizer.request('alien', [pointer])); del pointer",
        state=two.others["stranger"].ask("mm_utils.ShmPointerMMData(pixels(18)).__getstate__()"),
    )
    two.await_request("alien")
    assert two.digests("alien") == [[digest(pixels(18))]] * 2


@pytest.mark.parametrize("kind", ["pickle", "msgpack"])
def test_a_process_between_them_passes_a_handle_on_and_takes_nothing(two: World, kind: str) -> None:
    """SGLang has two encodings, by SGLANG_USE_PICKLE_IPC."""
    opened = "[each.opened for each in tokenizer.ring.statistics().processes]"
    before = two.tokenizer.ask(opened)
    two.tokenizer.run(f"{WIRE}; passed = tokenizer.request('p', [pixels(19)]); tokenizer.send(passed)")
    two.await_request("p")
    two.tokenizer.run(f"passed.time_stats = None; encode, decode = WIRE[{kind!r}]; wire = encode(passed)")
    assert two.tokenizer.ask(
        "decode(wire).mm_inputs.mm_items[0].feature.handle == passed.mm_inputs.mm_items[0].feature.handle"
    )
    assert two.tokenizer.ask("encode(decode(wire)) == wire")
    assert two.tokenizer.ask("len(wire)") < 4000
    assert [b - a for a, b in zip(before, two.tokenizer.ask(opened), strict=True)] == [0, 1, 1]


@pytest.mark.parametrize("kind", ["pickle", "msgpack"])
def test_a_handle_in_a_process_without_the_plugin_fails_one_request_there(two: World, kind: str) -> None:
    """Stock SGLang reads the state, finds no segment, and says so where it reports a failure of one request."""
    two.tokenizer.run(f"{WIRE}; sent = tokenizer.request('u', [pixels(20)]); tokenizer.send(sent)")
    two.tokenizer.run(f"sent.time_stats = None; wire = WIRE[{kind!r}][0](sent)")
    stranger = two.others["stranger"]
    stranger.run(f"{WIRE}; there = WIRE[{kind!r}][1](wire)", wire=two.tokenizer.ask("wire"))
    stranger.run(
        "pointer = there.mm_inputs.mm_items[0].feature\n"
        "try:\n    pointer.materialize()\n    told = ''\nexcept RuntimeError as error:\n    told = str(error)"
    )
    assert "FileNotFoundError" in stranger.ask("told")
    two.await_request("u")


def test_a_rank_that_cannot_open_has_the_request_refused_by_all(two: World) -> None:
    two.ranks[1].run(
        "from shmtransport.adapters.rings import JoinedRings\n"
        "opens = JoinedRings.open_wire\n"
        "def fails(rings, wire): raise HandleError('not today')\n"
        "JoinedRings.open_wire = fails"
    )
    try:
        two.send("x", "[pixels(21)]")
        two.await_request("x")
    finally:
        two.ranks[1].run("JoinedRings.open_wire = opens")
    assert two.digests("x") == ["Failed to open multimodal features in shared memory on a scheduler rank."] * 2
    two.tokenizer.run("tokenizer.finish('x')")
    assert two.used_nbytes() == 0
    two.send("y", "[pixels(22)]")
    two.await_request("y")
    assert two.digests("y") == [[digest(pixels(22))]] * 2


def test_a_handle_that_was_taken_back_is_an_error_of_its_request_in_all_ranks(two: World) -> None:
    two.tokenizer.run(
        "import pickle; stale = tokenizer.request('stale', [pixels(23)])\n"
        "socket = tokenizer.manager.send_to_scheduler\n"
        "class Keeps:\n    def send_pyobj(self, sent, **_):\n        self.sent = pickle.dumps(sent)\n"
        "tokenizer.manager.send_to_scheduler = keeps = Keeps()\n"
        "tokenizer.send(stale); tokenizer.manager.send_to_scheduler = socket\n"
        "del stale; gc.collect(); tokenizer.finish('stale'); socket.send(keeps.sent)"
    )
    two.await_request("stale")
    assert two.digests("stale") == ["Failed to open multimodal features in shared memory on a scheduler rank."] * 2


def test_switched_off_every_object_of_sglang_is_the_very_same(two: World) -> None:
    stranger = two.others["stranger"]
    stranger.run(
        "from sglang.srt.managers import tokenizer_manager\n"
        "from sglang.srt.managers.scheduler_components import request_receiver\n"
        "from sglang.srt.plugins import load_plugins\n"
        "def objects():\n"
        "    return [mm_utils.ShmPointerMMData, mm_utils._wrap_shm_or_inline,\n"
        "            tokenizer_manager.TokenizerManager._send_one_request,\n"
        "            request_receiver.SchedulerRequestReceiver._finalize_shm_features]\n"
        "before = objects(); os.environ['SHMTRANSPORT_ENABLE'] = '0'; load_plugins()"
    )
    assert stranger.ask("all(a is b for a, b in zip(before, objects(), strict=True))")
