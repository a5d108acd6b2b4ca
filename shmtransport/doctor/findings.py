"""What an examination says: findings, each with what mends it."""

from collections.abc import Sequence
from typing import Literal, Self, TypeAlias

import msgspec

Level: TypeAlias = Literal["ok", "note", "warning", "failure"]
"""How bad it is:

    ok        as it should be
    note      good to know; nothing is worse for it, or only what happens once
    warning   works, but slower or with less room than it could
    failure   something will fail
"""


class Finding(msgspec.Struct, frozen=True):
    """One fact about this host or this process, with its figures."""

    check: str
    """What was looked at; a check may have several findings."""
    level: Level
    text: str
    """What is there, and, unless that is well, what would be."""
    remedy: str = ""
    """The command or setting that mends it; empty where nothing has to be mended, or nothing can be from here."""


class Report(msgspec.Struct, frozen=True):
    """A whole examination, in the shape of its JSON."""

    ok: bool
    """Nothing will fail."""
    findings: Sequence[Finding]

    @classmethod
    def of(cls, findings: Sequence[Finding]) -> Self:
        """The report of all findings of an examination."""
        return cls(all(finding.level != "failure" for finding in findings), findings)
