"""A plugin of vLLM that writes down when each request's pixels reach the EngineCore and its workers.

It looks on from outside, with shmtransport's own plugin on or off. `install` makes a folder from which vLLM
loads it; `environment` says where it writes. In each process it wraps three methods of vLLM, and of the queue
between EngineCore and workers only the objects that are in use, over whatever the classes hold: what
shmtransport does is counted in.
"""

import functools
import hashlib
import inspect
import os
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch

from shmtransport.demo_vllm.records import Decoded, Event, Merged, Passed, Received, append

RECORD: Final = "SHMTRANSPORT_RECORD"
"""The environment variable that names the file to write to. Without it nothing is wrapped."""

DIGESTS: Final = "SHMTRANSPORT_RECORD_DIGESTS"
"""The environment variable that names a file: while it is there, pixels are hashed, which takes longer than moving
them, but within none of the times recorded here."""

MERGED_NBYTES: Final = 1 << 16
"""Merged tensors below that are not written down: sizes and the like."""

_NAME: Final = "shmtransport-recorder"
_registered: Final[list[bool]] = []


def install(folder: Path) -> Path:
    """Makes ``folder`` one from which vLLM loads this module as a plugin, when it stands in PYTHONPATH."""
    facts = folder / f"{_NAME.replace('-', '_')}-0.dist-info"
    facts.mkdir(parents=True)
    (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {_NAME}\nVersion: 0\n")
    (facts / "entry_points.txt").write_text(f"[vllm.general_plugins]\n{_NAME} = {__name__}:register\n")
    return folder


def environment(
    folder: Path, record: Path, *, digests: bool, inherited: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """The environment of a vLLM that is to be recorded; ``folder`` is what `install` made.

    VLLM_PLUGINS is left out, so that every plugin is loaded.
    """
    search_path = [str(folder), *filter(None, [inherited.get("PYTHONPATH")])]
    return {
        **{name: value for name, value in inherited.items() if name != "VLLM_PLUGINS"},
        "PYTHONPATH": os.pathsep.join(search_path),
        RECORD: str(record),
        DIGESTS: str(_switched(record.with_suffix(".digests"), digests)),
    }


def switch_digests(on: bool) -> None:
    """Says in any process of that environment whether pixels are to be hashed from now on."""
    _switched(Path(os.environ[DIGESTS]), on)


def _switched(file: Path, on: bool) -> Path:
    if on:
        file.touch()
    else:
        file.unlink(missing_ok=True)
    return file


def register() -> None:
    """What vLLM calls, in each of its processes."""
    if _registered or RECORD not in os.environ:
        return
    _registered.append(True)
    from vllm.multimodal import inputs
    from vllm.v1.engine.core import EngineCore
    from vllm.v1.executor.multiproc_executor import WorkerProc

    preprocess, busy_loop = EngineCore.preprocess_add_request, WorkerProc.worker_busy_loop
    reduce, to_device = inputs.BaseMultiModalField.reduce_data, inputs._nested_tensors_h2d
    pins_last = "pin_memory" in inspect.signature(to_device).parameters  # from 0.32 on

    @functools.wraps(preprocess)  # shmtransport looks at its signature
    def preprocess_add_request(core: Any, request: Any) -> Any:
        decoded_s = time.monotonic()
        _watch_sender(getattr(core.model_executor, "rpc_broadcast_mq", None))
        _write(_decoded(request, decoded_s))  # before the core's cache puts in what did not come
        return preprocess(core, request)

    @functools.wraps(busy_loop)
    def worker_busy_loop(worker: Any) -> Any:
        _watch_receiver(worker.rpc_broadcast_mq, worker.rank)
        return busy_loop(worker)

    @functools.wraps(reduce)
    def merge(field: Any, elems: Any, *, device: Any = None, pin_memory: bool = False) -> Any:
        if device is None or field.keep_on_cpu:
            return reduce(field, elems, device=device, pin_memory=pin_memory)
        begun_s = time.monotonic()
        merged = reduce(field, elems, pin_memory=pin_memory)
        merged_s = time.monotonic()
        there = to_device(merged, device=device, **({"pin_memory": pin_memory} if pins_last else {}))
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.current_stream().synchronize()
        _write_merged(there, begun_s, merged_s, time.monotonic())
        return there

    setattr(inputs.BaseMultiModalField, reduce.__name__, merge)
    EngineCore.preprocess_add_request = preprocess_add_request
    WorkerProc.worker_busy_loop = worker_busy_loop


def _write(event: Event) -> None:
    append(Path(os.environ[RECORD]), event)


def _write_merged(there: Any, begun_s: float, merged_s: float, copied_s: float) -> None:
    nbytes = sum(tensor.nbytes for tensor in _tensors_in(there))
    if nbytes >= MERGED_NBYTES:
        rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
        found = digest(there) if _hashes() else None
        _write(Merged(rank, merged_s, nbytes, merged_s - begun_s, copied_s - merged_s, found))


def _decoded(request: Any, decoded_s: float) -> Decoded:
    items = _items(request)
    return Decoded(
        request.request_id,
        decoded_s,
        len(items),
        pixel_digests(items) if _hashes() else [],
        digest(request.prompt_embeds) if _hashes() and request.prompt_embeds is not None else None,
    )


class _Counted:
    """Stands for the memory or the socket that a sender writes to, and adds up the bytes that it writes."""

    def __init__(self, inner: Any, add: Callable[[int], None]) -> None:
        self._inner = inner
        self._add = add

    def __setitem__(self, where: int | slice, value: Any) -> None:
        self._add(1 if isinstance(where, int) else memoryview(value).nbytes)
        self._inner[where] = value

    def send_multipart(self, parts: Sequence[Any], *args: Any, **kwargs: Any) -> Any:
        self._add(sum(memoryview(part).nbytes for part in parts))
        return self._inner.send_multipart(parts, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def _watch_sender(queue: Any) -> None:
    """Records each message with new requests that the EngineCore writes to ``queue``; None: it has no workers."""
    if queue is None or "acquire_write" in vars(queue):
        return
    written = [0]
    watched = weakref.ref(queue)  # its memory is given back when the last strong reference goes

    def add(nbytes: int) -> None:
        written[0] += nbytes

    @contextmanager
    def acquire_write(*args: Any, **kwargs: Any) -> Iterator[_Counted]:
        kept: Any = watched()
        with type(kept).acquire_write(kept, *args, **kwargs) as block:
            yield _Counted(block, add)

    def send(message: Any, *args: Any, **kwargs: Any) -> Any:
        kept: Any = watched()
        written[0], begun_s = 0, time.monotonic()
        result = type(kept).enqueue(kept, message, *args, **kwargs)
        seconds = time.monotonic() - begun_s
        if requests := new_requests(message):
            _write(Passed([request.req_id for request in requests], begun_s, seconds, written[0]))
        return result

    for name in ("local_socket", "remote_socket"):
        if vars(queue).get(name) is not None:
            vars(queue)[name] = _Counted(vars(queue)[name], add)
    vars(queue).update(acquire_write=acquire_write, enqueue=send)


def _watch_receiver(queue: Any, rank: int) -> None:
    """Records each message with new requests that a worker of the EngineCore's host takes from ``queue``."""
    if queue is None or not queue._is_local_reader:
        return
    announced = [0.0]
    watched = weakref.ref(queue)

    @contextmanager
    def acquire_read(*args: Any, **kwargs: Any) -> Iterator[Any]:
        kept: Any = watched()
        with type(kept).acquire_read(kept, *args, **kwargs) as block:
            announced[0] = time.monotonic()
            yield block

    def receive(*args: Any, **kwargs: Any) -> Any:
        kept: Any = watched()
        message = type(kept).dequeue(kept, *args, **kwargs)
        received_s = time.monotonic()
        if requests := new_requests(message):
            hashed = requests if _hashes() else []
            _write(
                Received(
                    [request.req_id for request in requests],
                    rank,
                    received_s,
                    received_s - announced[0],
                    {request.req_id: pixel_digests(_items(request)) for request in hashed},
                    {
                        request.req_id: digest(request.prompt_embeds)
                        for request in hashed
                        if request.prompt_embeds is not None
                    },
                )
            )
        return message

    vars(queue).update(acquire_read=acquire_read, dequeue=receive)


def new_requests(message: Any) -> list[Any]:
    """The requests that a call of the workers (method, positional and other arguments, rank) tells them of first."""
    _, positional, named, *_ = message
    return [new for argument in (*positional, *named.values()) for new in getattr(argument, "scheduled_new_reqs", ())]


def _items(request: Any) -> list[Any]:
    return [feature.data for feature in request.mm_features or () if feature.data is not None]


def _hashes() -> bool:
    return Path(os.environ[DIGESTS]).exists()


def pixel_digests(items: Sequence[Any]) -> list[str]:
    """SHA-256 of each item's tensors whose name begins with ``pixel_values``."""
    return [
        digest([item[name].data for name in sorted(item) if name.startswith("pixel_values")])  # an image or a video
        for item in items
    ]


def digest(nested: Any) -> str:
    """SHA-256 of the bytes of a tensor, or of all tensors in lists of them, one after the other."""
    hashed = hashlib.sha256()
    for tensor in _tensors_in(nested):
        payload: Any = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        hashed.update(payload)
    return hashed.hexdigest()


def _tensors_in(nested: Any) -> Iterator[torch.Tensor]:
    if isinstance(nested, torch.Tensor):
        yield nested
    elif isinstance(nested, (list, tuple)):
        for part in nested:
            yield from _tensors_in(part)
