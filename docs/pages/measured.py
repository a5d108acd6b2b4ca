"""The figures of docs/index.md: some rows of docs/benchmarks.md, those that lose among them."""

from typing import Final

from bench.report import RESULTS, markdown_table, results_in

RIVALS: Final = (
    "kickmsg",
    "iceoryx2",
    "vLLM (direct_rpc)",
    "vLLM shm cache",
    "vLLM (torch_shm)",
    "SGLang's pattern",
    "torch.multiprocessing (file_descriptor)",
    "pickle over ZMQ",
)
PAYLOADS: Final = ("9.6 MB", "10 x 9.6 MB")


def parts() -> dict[str, str]:
    """Markdown, by the name of its place."""
    return {"ratios": _ratios(), "shares": _shares()}


def _ratios() -> str:
    compare = results_in(RESULTS)["compare"]
    ratios = {(row["rival"], row["payload"]): row["ratio_to_shmtransport"] for row in compare.rows}
    rows = [(rival, *(f"{ratios[rival, payload]:.2g}" for payload in PAYLOADS)) for rival in RIVALS]
    table = markdown_table(("times as long as shmtransport", *PAYLOADS), rows)
    return f"{table}\n{compare.facts()}"


def _shares() -> str:
    served = results_in(RESULTS)["gpu_vllm_tp2"]
    shares = {(row["images"], row["plugin"]): f"{100 * row['transport_share']:.1f} %" for row in served.rows}
    rows = [(str(images), shares[images, False], shares[images, True]) for images in sorted({key[0] for key in shares})]
    table = markdown_table(("images a request", "with pixels in messages", "with the plugin"), rows)
    card = served.rows[0]
    return f"{table}\n{card['tensor_parallel']} × {card['device']}, vLLM {card['vllm']}; {served.facts()}"
