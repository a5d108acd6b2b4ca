"""Findings for people: 80 columns, ASCII, the remedy below what it mends."""

import textwrap

from rich.text import Text

from shmtransport.doctor.findings import Finding, Level, Report

COLUMNS = 80
_LEVEL_COLUMNS = 9
_CHECK_COLUMNS = 15
_STYLES: dict[Level, str] = {"ok": "green", "note": "cyan", "warning": "yellow", "failure": "bold red"}


def rendered(finding: Finding) -> Text:
    """One finding, ending in a line's end."""
    margin = " " * (_LEVEL_COLUMNS + _CHECK_COLUMNS)
    lines = _wrapped(finding.text, COLUMNS - len(margin))
    if finding.remedy:
        first, *others = _wrapped(finding.remedy, COLUMNS - len(margin) - 3)
        lines += [f"-> {first}", *(f"   {line}" for line in others)]
    head, *rest = lines
    text = Text.assemble(
        (f"{finding.level:<{_LEVEL_COLUMNS}}", _STYLES[finding.level]), f"{finding.check:<{_CHECK_COLUMNS}}", head, "\n"
    )
    return text.append("".join(f"{margin}{line}\n" for line in rest))


def verdict(report: Report) -> Text:
    """The last line."""
    counts = [
        f"{number} {level}{'s' * (number != 1)}"
        for level in ("failure", "warning", "note")
        if (number := sum(finding.level == level for finding in report.findings))
    ]
    what = "nothing will fail" if report.ok else "something will fail"
    return Text(f"{what}: {', '.join(counts) or 'all is well'}\n", "bold" if report.ok else "bold red")


def _wrapped(text: str, columns: int) -> list[str]:
    return textwrap.wrap(text, columns, break_on_hyphens=False)
