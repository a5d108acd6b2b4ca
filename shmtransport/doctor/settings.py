"""What SHMTRANSPORT_* says: each variable by itself, so that one that is wrong hides no other."""

import difflib
from collections.abc import Iterator
from typing import Final

from shmtransport import copying, segment
from shmtransport.adapters.settings import Settings
from shmtransport.config import PINNED
from shmtransport.doctor.findings import Finding
from shmtransport.doctor.situation import Situation
from shmtransport.errors import ConfigError
from shmtransport.segment.memfd import VARIABLE as SOCKETS

_PREFIX: Final = "SHMTRANSPORT_"
_VLLM: Final = ("ENABLE", "CAPACITY", "SEGMENT", "THRESHOLD", "ON_FULL", "RETURN", "LOG_LEVEL", "WRITABLE")
KNOWN: Final = (*(_PREFIX + name for name in _VLLM), segment.VARIABLE, PINNED, SOCKETS, copying.VARIABLE)
"""All that a process of shmtransport looks at."""


def settings(situation: Situation) -> Iterator[Finding]:
    """A wrong one turns the plugin off, or fails the creation of a ring; one of an unknown name does nothing."""
    ours = {name: value for name, value in sorted(situation.environment.items()) if name.startswith(_PREFIX)}
    findings = [*_wrong(ours), *_misspelt(ours)]
    yield from findings
    if not findings:
        said = ", ".join(f"{name}={value}" for name, value in ours.items() if name in KNOWN)
        yield Finding("settings", "ok", said or "the defaults: no SHMTRANSPORT_* is set")


def _wrong(ours: dict[str, str]) -> Iterator[Finding]:
    for name, value in ours.items():
        try:
            if name == copying.VARIABLE and value:
                copying.parse_choice(name, value)
            else:
                Settings.from_environment({name: value})
        except ConfigError as error:
            yield Finding("settings", "failure", str(error), f"unset {name}, or set it to {error.takes}")


def _misspelt(ours: dict[str, str]) -> Iterator[Finding]:
    for name in ours:
        if name not in KNOWN and (near := difflib.get_close_matches(name, KNOWN, n=1, cutoff=0.85)):
            text = f"nothing looks at {name}; expected {near[0]}?"
            yield Finding("settings", "warning", text, f"rename it to {near[0]}, or unset {name}")
