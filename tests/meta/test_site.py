"""The site is built without a warning, has an entry for whatever is public, and takes nothing from elsewhere."""

import html
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from mkdocstrings import Inventory

from docs.pages import write
from shmtransport.adapters.settings import Settings
from shmtransport.config import parse_size
from shmtransport.doctor.settings import KNOWN
from shmtransport.layout import InlineReason
from tests.meta.public import public_names
from tests.support import ROOT

DOCS = ROOT / "docs"
KILL_POINTS = "repository/tests/crash/test_kill_points.py.html"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, as `make docs` builds it."""
    folder = tmp_path_factory.mktemp("site")
    built(ROOT / "mkdocs.yml", folder)
    return folder


def built(config: Path, folder: Path, *, fails: bool = False) -> str:
    """What MkDocs said."""
    command = [sys.executable, "-m", "mkdocs", "build", "--config-file", str(config), "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    run = subprocess.run(command, check=False, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=55)
    assert (run.returncode != 0) == fails, run.stderr
    return run.stderr


def pages(site: Path) -> list[Path]:
    return sorted(site.rglob("*.html"))


def test_every_public_name_has_an_entry_in_the_reference(site: Path) -> None:
    with (site / "objects.inv").open("rb") as file:
        entries = set(Inventory.parse_sphinx(file))
    assert [name for name in public_names() if name not in entries] == []


def test_the_pages_take_nothing_from_elsewhere(site: Path) -> None:
    """A page is read, and searched, where there is no network."""
    loaded = r"<(?:script|img|iframe|source)\b[^>]*\bsrc=\"?(https?:[^\"\s>]+)|<link\b[^>]*\bhref=\"?(https?:[^\"\s>]+)"
    styled = r"url\(\"?(https?:[^)\"]+)|@import[^;]+(https?:[^;]+)"
    found = [match[0] for page in pages(site) for match in re.finditer(loaded, page.read_text())]
    found += [match[0] for sheet in site.rglob("*.css") for match in re.finditer(styled, sheet.read_text())]
    assert found == []


def test_every_link_and_picture_of_a_page_is_there(site: Path) -> None:
    """Those that are written as HTML as well, which MkDocs does not look at."""
    anchors = {page: set(re.findall(r'\bid="?([^"\s>]+)', page.read_text())) for page in pages(site)}
    broken = []
    for page in anchors:
        if page.name == "404.html":
            continue  # it is served at any depth
        for link in re.findall(r'\b(?:href|src)="?([^"\s>]+)', page.read_text()):
            name, _, anchor = html.unescape(link).partition("#")
            target = (page.parent / name.partition("?")[0]).resolve() if name else page
            if re.match(r"[a-z]+:", link):
                continue
            target = target / "index.html" if target.is_dir() else target
            known = anchors.get(target)
            dark_or_light = anchor in {"only-dark", "only-light", "__skip"}
            if not target.exists() or (anchor and known is not None and anchor not in known and not dark_or_light):
                broken.append(f"{page.relative_to(site)}: {link}")
    assert broken == []


def test_the_search_knows_the_documents_and_not_the_sources(site: Path) -> None:
    index = json.loads((site / "search" / "search_index.json").read_text())
    found = {entry["location"].partition("#")[0] for entry in index["docs"]}
    assert {"quickstart.html", "security.html", "reference/rings.html"} <= found
    assert [name for name in found if name.startswith("repository/")] == []


def test_a_name_in_a_docstring_leads_to_its_entry(site: Path) -> None:
    text = (site / "reference" / "rings.html").read_text()
    assert re.search(
        r'<a [^>]*href="errors.html#shmtransport.errors.RingFullError"[^>]*><code>RingFullError</code>', text
    )
    assert re.search(r'<a [^>]*href="#shmtransport.Endpoint.peer_id"[^>]*><code>peer_id</code>', text)  # inherited
    assert "<autoref" not in text


def test_a_link_leads_to_the_page_that_its_file_became(site: Path) -> None:
    failure_model = (site / "failure-model.html").read_text()
    assert 'href="security.html"' in failure_model
    assert 'href="repository/tests/crash/test_kill_points.py.html"' in failure_model
    assert 'href="failure-model.html"' in (site / "security.html").read_text()
    assert "test_kill_points.py</h1>" in re.sub(r"<a .*?</a>", "", shown := (site / KILL_POINTS).read_text())
    assert "import pytest" in html.unescape(re.sub("<[^>]+>", "", shown))


def test_a_picture_with_a_twin_follows_the_sites_switch(site: Path) -> None:
    text = (site / "benchmarks.html").read_text()
    assert re.search(r'src="benchmarks/time-light.svg#only-light"', text)
    assert re.search(r'src="benchmarks/time-dark.svg#only-dark"', text)
    assert "<picture" not in text


def test_the_reference_has_every_variable_and_every_reason() -> None:
    environment = (DOCS / "reference" / "environment.md").read_text()
    assert set(re.findall(r"^\| `(SHMTRANSPORT_\w+)` ", environment, flags=re.M)) == set(KNOWN)
    seeing = (DOCS / "reference" / "seeing.md").read_text()
    assert [reason.name for reason in InlineReason if f"| `{reason.name.lower()}` |" not in seeing] == []


@pytest.mark.parametrize("page", ["sizing.md", "vllm.md", "reference/environment.md"])
def test_a_page_says_the_defaults_of_the_plugin(page: str) -> None:
    settings = Settings.from_environment({})
    told = re.findall(
        r"^\| `SHMTRANSPORT_(?:SEGMENT|THRESHOLD)` \| `?(\d+ ?[KM]iB)", (DOCS / page).read_text(), flags=re.M
    )
    assert [parse_size(page, size) for size in told] == [settings.segment_nbytes, settings.threshold_nbytes]


def test_the_index_of_decisions_has_every_decision_by_its_title() -> None:
    rows = dict(
        re.findall(r"^\| \[\d{4}\]\((.+?)\) \| (.+) \|$", (DOCS / "decisions" / "README.md").read_text(), flags=re.M)
    )
    titles = {path.name: path.read_text().splitlines()[0] for path in (DOCS / "decisions").glob("[0-9]*.md")}
    assert {name: f"# {name[:4]} {title}" for name, title in rows.items()} == titles


def test_what_programs_make_of_the_documents_is_what_they_would_make_now() -> None:
    assert write.stale() == []  # else: make docs-write


def test_a_part_without_a_place_is_found() -> None:
    with pytest.raises(ValueError, match="expected a place for 'ratios'"):
        write.with_parts("# A page\n", {"ratios": "| |"})


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        ("[x](nowhere.md)", "nowhere.md"),
        ("[x](../tests/nowhere.py)", "nowhere.py"),
        ("[x](index.md#nowhere)", "nowhere"),
        ("::: shmtransport.Nothing", "Nothing"),
    ],
)
def test_what_leads_nowhere_fails_the_build(tmp_path: Path, text: str, warning: str) -> None:
    documents = tmp_path / "docs"
    documents.mkdir()
    (documents / "index.md").write_text(f"# One\n\n{text}\n")
    config = (ROOT / "mkdocs.yml").read_text().replace("docs/pages/", f"{DOCS}/pages/").replace("[.]", f"[{ROOT}]")
    nav = re.compile(r"^nav:.*?(?=^\S)(?!nav)", flags=re.S | re.M)
    (tmp_path / "mkdocs.yml").write_text(
        nav.sub("nav: [index.md, security.md, changelog.md, contributing.md]\n\n", config)
    )
    assert warning in built(tmp_path / "mkdocs.yml", tmp_path / "site", fails=True)
