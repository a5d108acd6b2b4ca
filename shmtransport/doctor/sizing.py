"""What the rings of vLLM's processes would be made of now, against what they should have (docs/vllm.md, "Sizing")."""

from collections.abc import Iterator

from shmtransport import segment
from shmtransport.doctor.findings import Finding
from shmtransport.doctor.remedies import enlarged
from shmtransport.doctor.situation import Situation, first_nbytes
from shmtransport.formatting import size


def vllm_ring(situation: Situation) -> Iterator[Finding]:
    """Of the API servers, for what goes to the engine. It begins with one segment, and grows."""
    if situation.settings() is None:
        yield Finding(
            "vllm ring", "note", "none: SHMTRANSPORT_ENABLE, or a setting that is wrong, turns the plugin off"
        )
        return
    ring, servers = situation.input_ring(), max(situation.api_server_count, 1)
    free_nbytes, limit = segment.BY_NAME[ring.backing].free_nbytes()
    wanted_nbytes, begins_nbytes = situation.wanted_nbytes(), sum(first_nbytes(ring))
    gets_nbytes = min(ring.capacity_nbytes, free_nbytes // servers)
    remedy = enlarged(limit, situation.roomy_nbytes(), free_nbytes)
    each = f" for each of {servers} API servers" if servers > 1 else ""
    free = f"{size(free_nbytes)} are free ({limit})"
    if begins_nbytes > free_nbytes // servers:
        text = f"expected {size(begins_nbytes)} to begin with{each}, {free}: everything will go inline"
        yield Finding("vllm ring", "failure", text, remedy)
    elif gets_nbytes < wanted_nbytes:
        text = f"expected {size(wanted_nbytes)}{each}, it gets {size(gets_nbytes)} of {ring.backing}: {free}"
        yield Finding("vllm ring", "warning", f"{text}; what finds no room goes inline", remedy)
    else:
        yield Finding("vllm ring", "ok", f"up to {size(wanted_nbytes)} of {ring.backing}{each}; {free}")


def vllm_outputs(situation: Situation) -> Iterator[Finding]:
    """Of an EngineCore, for embeddings and prompt logprobs that come back; always in /dev/shm."""
    settings = situation.settings()
    if settings is None or not settings.returns:
        why = "SHMTRANSPORT_RETURN is 0" if settings is not None else "the plugin is off"
        yield Finding("vllm outputs", "note", f"they come vLLM's own way: {why}")
        return
    ring, wanted_nbytes = settings.return_ring(), situation.outputs_nbytes()
    free_nbytes, limit = segment.BY_NAME["posix"].free_nbytes()
    remedy = enlarged(limit, situation.roomy_nbytes(), free_nbytes)
    free = f"{size(free_nbytes)} are free ({limit})"
    if sum(first_nbytes(ring)) > free_nbytes:
        text = f"expected {size(wanted_nbytes)} of posix, {free}: they come vLLM's own way"
        yield Finding("vllm outputs", "warning", text, remedy)
    elif ring.capacity_nbytes < wanted_nbytes:
        text = f"expected {size(wanted_nbytes)} of posix, their ring gets {size(ring.capacity_nbytes)}: {free}"
        yield Finding("vllm outputs", "warning", text, remedy)
    else:
        yield Finding("vllm outputs", "ok", f"up to {size(wanted_nbytes)} of posix; {free}")
