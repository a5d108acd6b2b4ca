"""All checks, in the order in which they are read: what is quick first, what is slow last."""

from collections.abc import Callable, Iterator
from typing import Final, TypeAlias

from shmtransport.doctor import backings, cuda, engines, kernel, limits, processor, rings, settings, sizing
from shmtransport.doctor.findings import Finding
from shmtransport.doctor.situation import Situation

Check: TypeAlias = Callable[[Situation], Iterator[Finding]]

CHECKS: Final[dict[str, Check]] = {
    "settings": settings.settings,
    "/dev/shm": backings.dev_shm,
    "memfd": backings.memfd,
    "vllm ring": sizing.vllm_ring,
    "vllm outputs": sizing.vllm_outputs,
    "huge pages": kernel.huge_pages,
    "RemoveIPC": kernel.remove_ipc,
    "open files": limits.open_files,
    "file size": limits.file_size,
    "address space": limits.address_space,
    "locked memory": limits.locked_memory,
    "rings": rings.rings,
    "processor": processor.processor,
    "copy kernel": processor.copy_kernel,
    "cuda": cuda.cuda,
    "sglang": engines.sglang,
    "sglang seams": engines.sglang_seams,
    "vllm": engines.vllm,
    "vllm seams": engines.vllm_seams,
}
"""By what its findings are called."""


def examine(situation: Situation) -> Iterator[Finding]:
    """Every finding, as it is made: some seconds, up to minutes where vLLM is installed. Changes nothing, raises
    nothing: what cannot be looked at is a note that says why."""
    for name, check in CHECKS.items():
        try:
            yield from check(situation)
        except Exception as error:  # noqa: BLE001 - one look that fails must not cost the others
            yield Finding(name, "note", f"could not be looked at: {str(error) or type(error).__name__}")
