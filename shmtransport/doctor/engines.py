"""The engines that are installed here, and whether the plugin finds its seams in them."""

from collections.abc import Iterator
from importlib import metadata
from importlib.util import find_spec
from typing import Final

import msgspec

from shmtransport.adapters.seams import Look
from shmtransport.doctor import child
from shmtransport.doctor.findings import Finding
from shmtransport.doctor.situation import Situation

_GROUP: Final = "vllm.general_plugins"
_NAME: Final = "shmtransport"
_PLUGINS: Final = "VLLM_PLUGINS"
_IMPORT: Final = "python -c 'import vllm'"
_TIMEOUT_S: Final = 180.0
"""For vLLM's import: ten seconds, and a minute or more where nothing of it is in the page cache."""


def vllm(situation: Situation) -> Iterator[Finding]:
    """The version, and whether it loads the plugin. Nothing is imported."""
    if not _is_installed("vllm"):
        yield Finding("vllm", "ok", "not installed for this Python; the one that serves has to be asked")
        return
    version = _version("vllm")
    if _NAME not in metadata.entry_points(group=_GROUP).names:
        text = f"vLLM {version}, expected an entry point {_NAME} of {_GROUP}: vLLM does not load the plugin"
        yield Finding("vllm", "failure", text, "pip install shmtransport, for the same Python")
    elif (named := situation.environment.get(_PLUGINS)) is not None and _NAME not in _split(named):
        text = f"vLLM {version}, expected {_PLUGINS} to name {_NAME}, it is {named!r}: vLLM does not load the plugin"
        yield Finding("vllm", "warning", text, f"{_PLUGINS}={','.join([*_split(named), _NAME])}")
    else:
        yield Finding("vllm", "ok", f"vLLM {version}, which loads the plugin")


def vllm_seams(situation: Situation) -> Iterator[Finding]:
    """Each seam that this vLLM lacks. A child process imports it; with the plugin off, so that nothing is wrapped."""
    if not _is_installed("vllm"):
        return
    environment = {**situation.environment, "SHMTRANSPORT_ENABLE": "0"}
    try:
        answer = child.answer_of(["-m", "shmtransport.doctor.seams"], timeout_s=_TIMEOUT_S, environment=environment)
    except child.ChildError as error:
        yield Finding("vllm seams", "warning", f"none could be looked at, importing vLLM failed: {error}", _IMPORT)
        return
    looks = msgspec.json.decode(answer, type=list[Look])
    for look in looks:
        match look.state:
            case "missing":
                text = f"expected a seam of the plugin, which stays off without: {look.why}"
                remedy = 'install a vLLM that is named in docs/vllm.md, "Tested", and report this line'
                yield Finding("vllm seams", "failure", text, remedy)
            case "unseen":
                yield Finding("vllm seams", "warning", f"could not be looked at: {look.why}", _IMPORT)
            case "left out":
                yield Finding("vllm seams", "note", f"left out, the others do without: {look.why}")
    found = sum(look.state == "found" for look in looks)
    yield Finding("vllm seams", "ok", f"{found} of {len(looks)} found in vLLM {_version('vllm')}")


def sglang(_: Situation) -> Iterator[Finding]:
    """There is no adapter for it: its processes use rings only where their code makes them."""
    if not _is_installed("sglang"):
        yield Finding("sglang", "ok", "not installed for this Python")
    else:
        yield Finding("sglang", "note", f"SGLang {_version('sglang')}, for which this release has no adapter")


def _is_installed(package: str) -> bool:
    """A folder of that name, which somebody happens to stand beside, is none."""
    spec = find_spec(package)
    return spec is not None and spec.origin is not None


def _version(package: str) -> str:
    """Of whichever distribution brings the package; vLLM's has other names for other devices."""
    distributions = metadata.packages_distributions().get(package, [])
    return ", ".join(metadata.version(name) for name in sorted(set(distributions))) or "of an unknown version"


def _split(names: str) -> list[str]:
    return [name.strip() for name in names.split(",") if name.strip()]
