"""Where requests stay SGLang's own way the tokenizer says so, once, and makes no ring."""

import secrets
from pathlib import Path

import pytest

from tests.processes.children import child, digest, pixels
from tests.sglang.world import PLUGINS, SETTINGS, START_S, write_config

LONE = (
    f"{PLUGINS}; import logging, zmq; from tests.sglang.tokenizer import Tokenizer; heard = []; "
    "handler = logging.Handler(); handler.emit = lambda record: heard.append(record.getMessage()); "
    "logging.getLogger('sglang.plugins.shmtransport').addHandler(handler); "
    "tokenizer = Tokenizer(folder, address, **parallel); "
    "scheduler = zmq.Context.instance().socket(zmq.PULL); scheduler.connect(address)"
)


@pytest.mark.timeout(150)
@pytest.mark.parametrize(
    ("parallel", "why"),
    [({"pp_size": 2}, "pipeline parallelism (pp_size=2)"), ({"tp_size": 32}, "32 ranks, a ring has room for 31")],
)
def test_it_says_once_why_tensors_go_sglangs_own_way(parallel: dict[str, int], why: str, tmp_path: Path) -> None:
    write_config(tmp_path)
    address = f"ipc://@shmtransport-sglang-{secrets.token_hex(8)}"
    with child("unrelated", environment=SETTINGS) as tokenizer:
        tokenizer.start("run", LONE, folder=str(tmp_path), address=address, parallel=parallel)
        tokenizer.answer(START_S)
        for rid in ("a", "b"):
            tokenizer.run(f"request = tokenizer.request({rid!r}, [pixels(1)]); tokenizer.send(request)")
            tokenizer.run("import pickle; pointer = pickle.loads(pickle.dumps(request.mm_inputs.mm_items[0].feature))")
            assert tokenizer.ask("(type(pointer).__name__, pointer.handle)") == ("ShmPointerMMData", None)
            assert tokenizer.ask("digest(pointer.materialize())") == digest(pixels(1))
            tokenizer.run("pointer.close_and_unlink(); del pointer, request")
        said = [line for line in tokenizer.ask("heard") if "own way" in line]
        assert len(said) == 1, said
        assert why in said[0]
        assert tokenizer.ask("tokenizer.ring is None")
        tokenizer.run("scheduler.close(0); tokenizer.manager.send_to_scheduler.close(0)")
