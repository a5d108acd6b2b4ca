"""Device tensors by handle: what is in the pool of one process is read in place by others, and comes back.

Each test runs on a device if there is one, and on the pretended one (driver.c), where every range of memory is counted.
"""

import textwrap

import pytest

from tests.cuda.pools import PRETENDED, REAL, Pair, Spawn, refuses


def test_a_tensor_is_opened_in_place_and_moves_no_byte(pair: Pair) -> None:
    pair.write("tensor = pool.put(torch.arange(1000))")
    pair.open("tensor")
    assert pair.reader.ask("numbers(there)") == list(range(1000))
    pair.write("tensor.add_(7); synchronize()")
    assert pair.reader.ask("numbers(there)") == list(range(7, 1007))
    assert pair.writer.ask("ring.statistics().inline") == {}


def test_views_share_their_block_and_keep_their_place_and_shape(pair: Pair) -> None:
    pair.write("tensor = pool.put(torch.arange(1000.0).view(10, 100))")
    pair.open("tensor[3:5, :]")
    assert pair.reader.ask("tuple(there.shape), there.dtype") == ((2, 100), pair.writer.ask("torch.float32"))
    assert pair.reader.ask("numbers(there[0])") == list(range(300, 400))
    pair.reader.run("other = reader.open(wire)", wire=pair.send("tensor.view(-1)[5]"))
    assert pair.reader.ask("other.dim(), other.item()") == (0, 5.0)
    assert pair.writer.ask("ring.statistics().blocks") == 2  # of the ring: the pool's record and the block's


@pytest.mark.parametrize("dtype", ["bfloat16", "float8_e4m3fn", "bool", "complex64", "int64"])
def test_dtypes(pair: Pair, dtype: str) -> None:
    pair.write(f"tensor = pool.put(torch.ones(33, dtype=torch.{dtype}))")
    pair.open("tensor")
    assert pair.reader.ask(f"there.dtype == torch.{dtype} and bool((there.cpu().float().abs() == 1).all())")


def test_what_is_not_contiguous_is_copied(pair: Pair) -> None:
    pair.write("tensor = pool.put(torch.arange(100).view(10, 10))")
    pair.open("tensor.t()")
    assert pair.reader.ask("there.device.type, numbers(there[1])") == ("cpu", list(range(1, 100, 10)))


def test_the_block_comes_back_when_all_tensors_are_gone(pair: Pair) -> None:
    pair.write("tensor = pool.put(torch.arange(1000))")
    pair.open("tensor")
    pair.write("del tensor; gc.collect()")
    pair.reader.run("view = there[10:]; del there; gc.collect(); until(lambda: _core.kept() == 0)")
    assert pair.writer.ask("used()") > 0
    assert pair.reader.ask("numbers(view)") == list(range(10, 1000))
    pair.reader.run("del view; gc.collect(); until(lambda: _core.kept() == 0)")
    pair.write("until(lambda: used() == 0)")


def test_the_block_comes_back_when_the_reader_is_killed(pair: Pair) -> None:
    pair.write("tensor = pool.put(torch.arange(1000))")
    pair.open("tensor")
    pair.send("tensor")  # and one handle that it has not opened
    pair.write("del tensor")
    assert pair.writer.ask("used()") > 0
    pair.reader.kill()
    pair.write("until(lambda: used() == 0)")


def test_a_block_is_used_again_and_its_old_handle_is_stale(pair: Pair) -> None:
    pair.write("tensor = pool.put(torch.arange(1000)); address = tensor.data_ptr()")
    wire = pair.send("tensor")
    pair.write("del tensor; gc.collect()")
    pair.reader.run("there = reader.open(wire); del there; gc.collect(); until(lambda: _core.kept() == 0)", wire=wire)
    pair.write("until(lambda: used() == 0); tensor = pool.put(torch.zeros(1000)); assert tensor.data_ptr() == address")
    pair.refuses("reader.open(wire)", "StaleHandleError", wire=wire)


def test_a_second_open_shares_what_the_first_has(pair: Pair) -> None:
    pair.write("tensor = pool.put(torch.arange(1000))")
    pair.open("tensor")
    pair.reader.run("again = reader.open(wire); del there; gc.collect()", wire=pair.send("tensor"))
    pair.write("del tensor")
    assert pair.reader.ask("numbers(again)") == list(range(1000))
    assert pair.writer.ask("used()") > 0
    pair.reader.run("del again; gc.collect(); until(lambda: _core.kept() == 0)")
    pair.write("until(lambda: used() == 0)")


def test_a_reader_forwards_it(pair: Pair, spawn: Spawn) -> None:
    third, third_id = pair.join(spawn)
    pair.write("tensor = pool.put(torch.arange(1000))")
    pair.open("tensor")
    pair.write("del tensor")
    wire = pair.reader.ask("bytes(reader.share(there[500:], third_id))", third_id=third_id)
    pair.reader.run("del there; gc.collect()")
    third.run("there = reader.open(wire)", wire=wire)
    assert third.ask("numbers(there)") == list(range(500, 1000))
    third.run("del there; gc.collect(); until(lambda: _core.kept() == 0)")
    pair.write("until(lambda: used() == 0)")


def test_one_ticket_for_two_readers(pair: Pair, spawn: Spawn) -> None:
    third, third_id = pair.join(spawn)
    pair.write("tensor = pool.put(torch.arange(1000))")
    wire = pair.send("tensor", pair.peer_id, third_id)
    for reader in (pair.reader, third):
        reader.run("there = reader.open(wire)", wire=wire)
        assert reader.ask("numbers(there)") == list(range(1000))


def test_the_writer_opens_its_own(pair: Pair) -> None:
    pair.write("""
        tensor = pool.put(torch.arange(1000))
        own = ring.open(ring.share(tensor[1:], ring))
        assert own.data_ptr() == tensor[1:].data_ptr()
        assert ring.holds(own) and pool.put(own) is own
        del tensor, own
        gc.collect()
        until(lambda: used() == 0)
    """)


def test_a_channel_carries_it(pair: Pair) -> None:
    pair.write("""
        socket = zmq.Context.instance().socket(zmq.PAIR)
        port = socket.bind_to_random_port("tcp://127.0.0.1")
    """)
    code = """
    socket = zmq.Context.instance().socket(zmq.PAIR)
    socket.connect(f"tcp://127.0.0.1:{port}")
    channel = Channel(socket)
    """
    pair.reader.run(textwrap.dedent(code), port=pair.writer.ask("port"))
    pair.write("channel = Channel(socket, ring, threshold=0)")
    pair.reader.start("run", "received = channel.recv(timeout_s=20)")
    pair.write("channel.join(timeout_s=20)\nchannel.send({'hidden': pool.put(torch.arange(100000))})")
    pair.reader.answer()
    assert pair.reader.ask("numbers(received['hidden'][-2:])") == [99998, 99999]
    assert pair.writer.ask("channel.statistics().sent_wire_nbytes") < 300
    for process in (pair.reader, pair.writer):
        process.run("channel.close(); socket.close()")


def test_a_full_pool_says_so(pair: Pair) -> None:
    pair.write("""
        kept = [pool.empty(1 << 18, torch.uint8) for _ in range(4)]
        with pytest.raises(RingFullError, match="1048576 of 1048576 are in live blocks, the largest free extent has 0"):
            pool.empty(1)
        kept.pop()
        gc.collect()
        until(lambda: used() == 3 << 18)
        pool.empty(1 << 18, torch.uint8)
    """)


@pytest.mark.parametrize("options", [{"on_full": "block", "timeout_s": 20.0}])
def test_a_full_pool_waits_for_a_reader(pair: Pair) -> None:
    pair.write("tensor = pool.empty(1 << 20, torch.uint8)")
    pair.open("tensor")
    pair.write("del tensor")
    pair.writer.start("run", "tensor = pool.empty(1 << 20, torch.uint8)")
    pair.reader.run("del there; gc.collect()")
    pair.writer.answer()


@pytest.mark.parametrize("options", [{"on_full": "block", "timeout_s": 0.1}])
def test_it_waits_no_longer_than_it_may(pair: Pair) -> None:
    pair.write("""
        kept = pool.empty(1 << 20, torch.uint8)
        for nbytes, error in ((1, WaitTimeoutError), (2 << 20, RingFullError)):
            with pytest.raises(error):
                pool.empty(nbytes, torch.uint8)
    """)


def test_a_handle_that_names_bytes_behind_its_block_is_refused(pair: Pair) -> None:
    pair.write("tensor = pool.put(torch.arange(1000)); behind = pool.put(torch.arange(1000))")
    wire = pair.send("tensor[500:]")
    for offset in (4008, 8000, 1, (1 << 64) - 8):
        forged = f"msgspec.structs.replace(Handle.from_bytes(wire), offset={offset})"
        pair.refuses(f"reader.open({forged})", "HandleError", says="of a device", wire=wire)


def test_the_memory_is_given_back_when_nobody_has_it_open(pair: Pair, pretended: bool) -> None:
    pair.write("tensor = pool.put(torch.arange(1000))")
    pair.open("tensor")
    pair.write("del tensor; pool.close(); pool.close()")
    if pretended:
        assert pair.writer.ask("tell.allocated") == 1
        assert pair.reader.ask("tell.opened") == 1
    assert pair.reader.ask("numbers(there[:3])") == [0, 1, 2]
    pair.reader.run("del there; reader.close(); del reader; gc.collect(); until(lambda: _core.kept() == 0)")
    if pretended:
        pair.reader.run("until(lambda: tell.opened == 0)")
    pair.reader.finish()
    pair.write("DevicePool.create(ring, 'cuda:0', capacity='1MiB').close()")
    if pretended:
        assert pair.writer.ask("tell.allocated") == 0
    pair.write("until(lambda: ring.statistics().blocks == 0)")
    pair.write("""
        with pytest.raises(ClosedError):
            pool.empty(1)
    """)


def test_a_pool_that_is_dropped_is_closed(pair: Pair, pretended: bool) -> None:
    pair.write("tensor = pool.put(torch.arange(1000)); del pool; gc.collect()")
    if pretended:
        assert pair.writer.ask("tell.allocated") == 1
    pair.open("tensor")
    assert pair.reader.ask("numbers(there[:3])") == [0, 1, 2]


def test_a_forked_child_is_told(pair: Pair) -> None:
    pair.write("""
        tensor = pool.put(torch.arange(1000))
        pid = os.fork()
        if pid == 0:
            try:
                pool.put(torch.arange(1000))
            except ForkedError:
                os._exit(0)
            os._exit(1)
        assert os.waitpid(pid, 0)[1] == 0
        assert numbers(tensor[:2]) == [0, 1]
    """)


PRETENDED_ONLY = pytest.mark.parametrize("spawn", [PRETENDED], indirect=True)


REAL_ONLY = pytest.mark.parametrize(
    "spawn", [pytest.param(REAL, marks=[pytest.mark.needs_gpu, pytest.mark.timeout(300)])], indirect=True
)


@REAL_ONLY
def test_a_reader_waits_for_what_the_writer_has_enqueued(pair: Pair) -> None:
    pair.write("""
        tensor = pool.put(torch.zeros(100000))
        torch.cuda._sleep(int(3e8))
        tensor.fill_(7)
    """)
    wire = pair.send("tensor")
    pair.reader.run("there = reader.open(wire); least = there.min()", wire=wire)
    assert pair.reader.ask("least.item()") == 7


@REAL_ONLY
@pytest.mark.parametrize("options", [{"on_full": "block", "timeout_s": 30.0}])
def test_a_block_is_not_reused_while_a_readers_kernels_read_it(pair: Pair) -> None:
    pair.reader.run("wrong = torch.zeros((), dtype=torch.int64, device='cuda')")
    for i in range(50):
        pair.write(f"tensor = pool.empty(1 << 17, torch.int64).fill_({i})")  # one fills the pool
        pair.open("tensor")
        pair.write("del tensor")
        pair.reader.run(f"torch.cuda._sleep(int(5e6)); wrong += (there != {i}).sum(); del there")
    assert pair.reader.ask("wrong.item()") == 0


@REAL_ONLY
def test_a_reader_goes_on_when_the_writer_is_killed(pair: Pair) -> None:
    pair.write("tensor = pool.put(torch.arange(1000))")
    pair.open("tensor")
    pair.writer.kill()
    assert pair.reader.ask("numbers(there)") == list(range(1000))
    pair.reader.run("del there; reader.close(); del reader; gc.collect(); until(lambda: _core.kept() == 0)")


@REAL_ONLY
@pytest.mark.parametrize("options", [{"on_full": "inline"}])
def test_without_room_a_tensor_is_ordinary_memory_and_goes_through_the_ring(pair: Pair) -> None:
    pair.write("kept = pool.empty(1 << 20, torch.uint8); tensor = pool.put(torch.arange(1000))")
    assert pair.writer.ask("tensor.is_cuda and not ring.holds(tensor)")
    pair.open("tensor")
    assert pair.reader.ask("there.device.type, numbers(there)") == ("cpu", list(range(1000)))


@PRETENDED_ONLY
@pytest.mark.parametrize("order", ["allocate_code = 2", "export_code = 801"])
def test_a_device_that_refuses_is_an_error_and_leaves_nothing(spawn: Spawn, order: str) -> None:
    writer = spawn(f"ring = Ring.create(capacity='8MiB', segment='4MiB')\ntell.{order}")
    refuses(writer, "DevicePool.create(ring, 'cuda:0', capacity='1MiB')", "DeviceError", says="CUDA_ERROR_O")
    assert writer.ask("tell.allocated, ring.statistics().blocks") == (0, 0)


@PRETENDED_ONLY
@pytest.mark.parametrize(
    ("order", "says"), [("uuid = 7", "make it visible (CUDA_VISIBLE_DEVICES)"), ("import_code = 201", "CUDA_ERROR_OF")]
)
def test_a_reader_that_cannot_reach_the_device_says_so_and_gives_the_block_back(
    pair: Pair, order: str, says: str
) -> None:
    pair.reader.run(f"tell.{order}")
    pair.write("tensor = pool.put(torch.arange(1000))")
    wire = pair.send("tensor")
    pair.write("del tensor")
    pair.refuses("reader.open(wire)", "DeviceError", says=f"{says}.*tensor.cpu()", wire=wire)
    pair.write("until(lambda: used() == 0)")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("'cpu'", "device: expected one of CUDA"),
        ("'cuda:0', capacity='0'", "capacity"),
        ("'cuda:0', on_full='wait'", "on_full: expected one of"),
    ],
)
@PRETENDED_ONLY
def test_wrong_parameters(spawn: Spawn, arguments: str, says: str) -> None:
    writer = spawn("ring = Ring.create(capacity='8MiB', segment='4MiB')")
    refuses(writer, f"DevicePool.create(ring, {arguments})", "ConfigError", says=says)
