"""The tables of docs/protocol.md are those of csrc/layout.h, so that a second implementation reads the truth."""

import re

from shmtransport import _core, dtypes
from tests.support import ROOT

DOCUMENT = (ROOT / "docs" / "protocol.md").read_text()
LAYOUT = (ROOT / "csrc" / "layout.h").read_text()
STRUCTS = {"Header": "shmt_header", "Row": "shmt_row", "Entry": "shmt_entry"}


def section(heading: str) -> str:
    return re.split(rf"^#+ {heading}$", DOCUMENT, flags=re.M)[1].split("\n#")[0]


def test_every_field_of_the_layout_is_in_the_document_at_its_offset() -> None:
    for heading, struct in STRUCTS.items():
        documented = re.findall(r"^\| (\d+) \| [^|]+ \| `(\w+)`", section(heading), flags=re.M)
        asserted = re.findall(rf"^SHMT_AT\({struct}, (\w+), (\d+)\);", LAYOUT, flags=re.M)
        assert asserted
        assert documented == [(offset, field) for field, offset in asserted]


def test_sizes_of_the_structs_are_in_the_document() -> None:
    sizes = dict(re.findall(r"sizeof\((\w+)\) == (\w+),", LAYOUT))
    sizes = {struct: {"SHMT_PAGE_NBYTES": "4096", "SHMT_LINE_NBYTES": "64"}.get(n, n) for struct, n in sizes.items()}
    assert {STRUCTS[heading]: section(heading).split()[0] for heading in STRUCTS} == sizes


def test_offsets_and_signature_are_in_the_document() -> None:
    areas = re.findall(r"^\| 0x(\w+) \| ", section("Control segment"), flags=re.M)
    assert [int(area, 16) for area in areas][-1] == _core.CONSTANTS["ENTRIES_OFFSET"]
    assert f"`{_core.CONSTANTS['ENTRIES_OFFSET']:#x} + 64 * entries`" in DOCUMENT
    assert f"`{_core.CONSTANTS['SIGNATURE']:#x}`" in section("Header")
    assert f"Layout version {_core.CONSTANTS['LAYOUT_VERSION']}," in DOCUMENT


def test_the_codes_of_all_dtypes_are_in_the_document() -> None:
    table = re.findall(r"\| (\d+) \| ([a-z]\w+) (?=\|)", section("Dtypes"))
    assert {(int(code), name) for code, name in table} == {(dtype.code, dtype.name) for dtype in dtypes.TABLE}


def test_the_document_has_all_25_rules_and_all_kill_points() -> None:
    assert [int(number) for number in re.findall(r"^(\d+)\. ", section_of_rules(), flags=re.M)] == list(range(1, 26))
    code = "".join(path.read_text() for path in (ROOT / "csrc").rglob("*.c"))
    points = set(re.findall(r'SHMT_KILL_POINT\("([\w.]+)"\)', code))
    assert points
    assert points == set(re.findall(r"\b([a-z]+\.[a-z]+)(?=[\],])", " ".join(re.findall(r"\[[a-z., ]+\]", DOCUMENT))))


def section_of_rules() -> str:
    return DOCUMENT.split("\n## The rules\n")[1].split("\n## ")[0]
