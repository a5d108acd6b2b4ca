"""Which scheduler ranks there are, and under which names they join.

A rank answers that it has joined a ring by being there: in the ring's own table of readers, under the name of its
place. No message goes back, and the kernel says whether it still lives.
"""

from typing import Final

from sglang.srt.runtime_context import get_parallel

MOST_RANKS: Final = 31
"""Readers that a ring has room for."""


def _name(replica: int, rank: int) -> str:
    return f"SGLang rank {replica}.{rank}"


def own_name() -> str:
    """Of this process, a rank: the replica it belongs to, and its tensor-parallel rank."""
    parallel = get_parallel()
    return _name(0 if parallel.attn_dp_enabled else parallel.dp_rank or 0, parallel.tp_rank)


def names() -> frozenset[str]:
    """Of all ranks that may get a request of this process, a tokenizer. Attention-DP groups are part of one replica."""
    parallel = get_parallel()
    return frozenset(_name(replica, rank) for replica in range(parallel.dp_size) for rank in range(parallel.tp_size))


def why_not() -> str | None:
    """Why requests of this process can have no handles; None if they can."""
    parallel = get_parallel()
    if parallel.pp_size > 1:
        return f"pipeline parallelism (pp_size={parallel.pp_size}), whose later stages get requests another way"
    if parallel.max_ep_size:
        return f"elastic expert parallelism (max_ep_size={parallel.max_ep_size}), which adds ranks later"
    if len(names()) > MOST_RANKS:
        return f"{len(names())} ranks, a ring has room for {MOST_RANKS}"
    return None
