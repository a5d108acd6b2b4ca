"""Real vLLM, offline, as it is by default: what the first hop costs, what is refused, what is said."""

import statistics
from collections.abc import Callable

import pytest

from tests.vllm.comparing import IMAGE_NBYTES
from tests.vllm.serving import Served

pytestmark = pytest.mark.timeout(900)  # a run is made in the first test that looks at it

Serve = Callable[[str], Served]
FORGERIES = {
    "of a ring nobody knows": "has not joined",
    "of an older generation": "",
    "beyond its block": "",
    "of another shape": "the handle is of float32",
    "damaged": "checksum",
    "no handle at all": "expected a handle of at least",
}


def test_ten_images_cross_in_less_than_16_kib(serve: Serve) -> None:
    assert serve("off").result["measured"]["hop1_wire_nbytes"] > 10 * IMAGE_NBYTES
    assert serve("on").result["measured"]["hop1_wire_nbytes"] < 16 << 10


def hop1_seconds(served: Served) -> float:
    """From the client's add_request until the core has decoded it, and the staging before; the median request."""
    requests = served.result["requests"]
    seconds: float = statistics.median(
        served.decoded[name].decoded_s - requests[name]["sent_s"] + staged_s
        for name, _, staged_s in served.result["measured"]["rows"]
    )
    return seconds


def test_the_first_hop_of_ten_images_is_faster_by_handle(
    serve: Serve, record_property: Callable[[str, object], None]
) -> None:
    off, on = hop1_seconds(serve("off")), hop1_seconds(serve("on"))
    staged = serve("on").result["measured"]["staged_s"]
    record_property("hop1_seconds", {"off": off, "on": on, "of which staging": staged})
    print(
        f"\nhop 1 of ten images: off {off * 1e3:.1f} ms, on {on * 1e3:.1f} ms, of which staging {staged * 1e3:.1f} ms"
    )
    assert on < off


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_forged_handle_fails_its_request_and_the_next_is_served(serve: Serve, forgery: str) -> None:
    served = serve("on")
    found = served.result["forged"][forgery]
    assert found["refused"]["finish_reason"] == "error"
    assert found["served"]["finish_reason"] == "length"
    assert len(found["served"]["token_ids"]) == 4
    assert FORGERIES[forgery] in served.log


def test_one_line_says_that_it_is_on(serve: Serve) -> None:
    assert serve("on").log.count("shmtransport is on") == 1
    assert "shmtransport is off" not in serve("on").log


def test_switched_off_it_says_nothing(serve: Serve) -> None:
    assert "shmtransport is o" not in serve("off").log


@pytest.mark.parametrize("run", ["off", "on"])
def test_nothing_is_left_in_shared_memory(serve: Serve, run: str) -> None:
    assert serve(run).left == set()
