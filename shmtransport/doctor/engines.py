"""The engines that are installed here, and whether the plugin finds its seams in them."""

from collections.abc import Iterator
from importlib import metadata
from importlib.util import find_spec
from typing import Final, NamedTuple

import msgspec

from shmtransport.adapters.seams import Look
from shmtransport.doctor import child
from shmtransport.doctor.findings import Finding
from shmtransport.doctor.situation import Situation

_NAME: Final = "shmtransport"
_TIMEOUT_S: Final = 180.0
"""For an engine's import: ten seconds, and a minute or more where nothing of it is in the page cache."""


class _Engine(NamedTuple):
    """An engine with an adapter."""

    package: str
    name: str
    group: str
    """Of entry points, in which the engine looks for plugins."""
    variable: str
    """Names the plugins to load, with commas between; all are where it is not set."""

    @property
    def imported(self) -> str:
        return f"python -c 'import {self.package}'"


_VLLM: Final = _Engine("vllm", "vLLM", "vllm.general_plugins", "VLLM_PLUGINS")
_SGLANG: Final = _Engine("sglang", "SGLang", "sglang.srt.plugins", "SGLANG_PLUGINS")


def vllm(situation: Situation) -> Iterator[Finding]:
    """The version, and whether it loads the plugin. Nothing is imported."""
    return _loaded(_VLLM, situation.environment.get(_VLLM.variable))


def vllm_seams(situation: Situation) -> Iterator[Finding]:
    """Each seam that this vLLM lacks. A child process imports it; with the plugin off, so that nothing is wrapped."""
    return _seams(_VLLM, situation)


def sglang(situation: Situation) -> Iterator[Finding]:
    """As `vllm`."""
    return _loaded(_SGLANG, situation.environment.get(_SGLANG.variable) or None)  # an empty one names none to leave out


def sglang_seams(situation: Situation) -> Iterator[Finding]:
    """As `vllm_seams`."""
    return _seams(_SGLANG, situation)


def _loaded(engine: _Engine, named: str | None) -> Iterator[Finding]:
    if not _is_installed(engine.package):
        yield Finding(engine.package, "ok", "not installed for this Python; the one that serves has to be asked")
        return
    found = f"{engine.name} {_version(engine.package)}"
    if _NAME not in metadata.entry_points(group=engine.group).names:
        text = f"{found}, expected an entry point {_NAME} of {engine.group}: {engine.name} does not load the plugin"
        yield Finding(engine.package, "failure", text, "pip install shmtransport, for the same Python")
    elif named is not None and _NAME not in _split(named):
        text = f"expected {engine.variable} to name {_NAME}, it is {named!r}: {engine.name} does not load the plugin"
        remedy = f"{engine.variable}={','.join([*_split(named), _NAME])}"
        yield Finding(engine.package, "warning", f"{found}, {text}", remedy)
    else:
        yield Finding(engine.package, "ok", f"{found}, which loads the plugin")


def _seams(engine: _Engine, situation: Situation) -> Iterator[Finding]:
    if not _is_installed(engine.package):
        return
    check = f"{engine.package} seams"
    environment = {**situation.environment, "SHMTRANSPORT_ENABLE": "0"}
    try:
        arguments = ["-m", "shmtransport.doctor.seams", engine.package]
        answer = child.answer_of(arguments, timeout_s=_TIMEOUT_S, environment=environment)
    except child.ChildError as error:
        text = f"none could be looked at, importing {engine.name} failed: {error}"
        yield Finding(check, "warning", text, engine.imported)
        return
    looks = msgspec.json.decode(answer, type=list[Look])
    for look in looks:
        match look.state:
            case "missing":
                text = f"expected a seam of the plugin, which stays off without: {look.why}"
                document = f"docs/{engine.package}.md"
                remedy = f'install a {engine.name} that is named in {document}, "Tested", and report this line'
                yield Finding(check, "failure", text, remedy)
            case "unseen":
                yield Finding(check, "warning", f"could not be looked at: {look.why}", engine.imported)
            case "left out":
                yield Finding(check, "note", f"left out, the others do without: {look.why}")
    found = sum(look.state == "found" for look in looks)
    yield Finding(check, "ok", f"{found} of {len(looks)} found in {engine.name} {_version(engine.package)}")


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
